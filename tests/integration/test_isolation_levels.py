"""Every attack of `tests.support.attacks` at every level of isolation, and the table of docs/security.md.

`REWRITE_ISOLATION_TABLE=1` writes what was found into the table; without it the two must agree.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import docker
import pytest

from nodepool.domain.nodes.isolation import Isolation
from tests.support.attack_driver import PATIENCE_SECONDS
from tests.support.environment import ROOT, not_here
from tests.support.isolation_table import LEVELS, read_table, write_table
from tests.support.ordinary import python_of_anybody
from tests.support.processes import run_name

# As long as an attack may last that nobody ends, and some more.
pytestmark = [pytest.mark.docker, pytest.mark.timeout(PATIENCE_SECONDS + 400)]
AS_ROOT = os.geteuid() == 0
ORDINARY_USER = 61_100  # in the range that systemd leaves unused, and not one of the runs'
STRONG = {
    "Docker": Isolation.CONTAINER,
    "root with bubblewrap": Isolation.BUBBLEWRAP,
    "root without": Isolation.USER,
    "ordinary user with bubblewrap": Isolation.BUBBLEWRAP,
    "ordinary user without": Isolation.NONE,
}
# Who shares the machine with strangers may rely on these, whatever else a level leaves open.
NEVER_OPEN = (
    "read the agent's environment",
    "look into the agent's memory",
    "read the agent's secrets",
    "read files of the agent that anybody may read",
    "read another run's files",
    "see other processes",
    "send the agent a signal",
    "leave files in /tmp, /var/tmp or /dev/shm for others",
    "leave System V shared memory",
    "leave a POSIX message queue",
    "leave a process behind",
)


def _begin(level: str, image: str) -> tuple[subprocess.Popen[bytes], Path]:
    folder = Path(tempfile.mkdtemp(prefix=f"hm-lvl-{run_name()}-"))
    ordinary = level.startswith("ordinary")
    folder.chmod(0o755)
    if ordinary:
        os.chown(folder, ORDINARY_USER, ORDINARY_USER)
    python = python_of_anybody() if ordinary else sys.executable
    process = subprocess.Popen(
        [python, "-m", "tests.support.attack_driver", "docker" if level == "Docker" else level,
         str(folder), image],
        cwd=ROOT,
        env={
            **os.environ,
            "AGENT_SECRET": "AGENT_SECRET",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}",
        },
        user=ORDINARY_USER if ordinary else None,
        group=ORDINARY_USER if ordinary else None,
        extra_groups=[] if ordinary else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    return process, folder


@pytest.fixture(scope="module")
def found(docker_engine: docker.DockerClient, test_image: str) -> dict[str, dict[str, object]]:
    """By level: the isolation that the runner claims, and what became of each attack. All levels at once."""
    if not AS_ROOT:
        not_here("only root can be every kind of user")
    begun = {level: _begin(level, test_image) for level in LEVELS}
    results = {}
    for level, (process, folder) in begun.items():
        output, words = process.communicate()
        shutil.rmtree(folder, ignore_errors=True)
        assert process.returncode == 0, f"{level}: {words.decode()[-3000:]}"
        results[level] = json.loads(output.decode().splitlines()[-1]) | {"words": words.decode()}
    return results


def _offered(found: dict[str, dict[str, object]]) -> list[str]:
    return [level for level in LEVELS if found[level]["isolation"] == str(STRONG[level])]


def test_every_level_says_what_it_is_and_is_to_be_had_here(found: dict[str, dict[str, object]]) -> None:
    if missing := [
        f"{level} is {found[level]['isolation']}" for level in LEVELS if level not in _offered(found)
    ]:
        not_here(f"this machine does not offer every level: {', '.join(missing)}")


@pytest.mark.parametrize("level", [level for level in LEVELS if STRONG[level] is not Isolation.NONE])
def test_where_strangers_are_taken_they_hurt_nobody(found: dict[str, dict[str, object]], level: str) -> None:
    """Whatever the machine offers: a level that claims to keep strangers out keeps them out."""
    tried = found[level]["found"]
    assert isinstance(tried, dict)
    if found[level]["isolation"] == str(Isolation.NONE):
        not_here(f"{level} is no isolation on this machine")
    assert [name for name in NEVER_OPEN if tried[name] != "closed"] == []


def test_the_table_in_the_documents_is_what_was_found(found: dict[str, dict[str, object]]) -> None:
    measured = {level: result["found"] for level, result in found.items()}
    if os.environ.get("REWRITE_ISOLATION_TABLE"):
        write_table(measured)
    table = read_table()
    differences = {
        (level, name): (measured[level].get(name), written)
        for level in _offered(found)
        for name, written in table[level].items()
        # An engine or a kernel that is newer than the table's may close more.
        if measured[level].get(name) not in {written, "closed"}
    }
    assert differences == {}
    assert {name for rows in table.values() for name in rows} == set(measured["Docker"])
