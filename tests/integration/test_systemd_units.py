"""Units of systemd: what systemd itself says of them, and that they name what is there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from local_pool import plan
from tests.support.environment import ROOT, not_here

FOLDER = ROOT / "deploy" / "systemd"
SERVICES = sorted(FOLDER.glob("*.service"))
# "OK" of systemd-analyze is below 5; what can be done without breaking them is done.
MOST_EXPOSURE = 20  # tenths


def _analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        not_here("systemd-analyze is not installed")
    command = ["systemd-analyze", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_there_is_a_unit_for_every_part() -> None:
    assert [path.stem for path in SERVICES] == [
        f"hivemind-{part}" for part in ("backup", "dispatcher", "flower", "gateway")
    ]


@pytest.mark.parametrize("unit", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_systemd_takes_the_unit(unit: Path, tmp_path: Path) -> None:
    for path in FOLDER.iterdir():
        # The programs are where a pool is installed, not here.
        text = re.sub(r"/opt/hivemind/\.venv/bin/\S+", "/bin/true", path.read_text())
        (tmp_path / path.name).write_text(text)
    done = _analyze("verify", "--man=no", tmp_path / unit.name)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", SERVICES, ids=lambda path: path.name)
def test_what_a_unit_may_do_is_little(unit: Path) -> None:
    done = _analyze("security", "--offline=yes", f"--threshold={MOST_EXPOSURE}", unit)
    assert done.returncode == 0, done.stdout[-400:]


def test_the_dispatcher_takes_the_queues_that_hivemind_up_takes() -> None:
    argv = plan.dispatcher_part({}).argv
    queues = argv[argv.index("-Q") + 1]
    assert f"-Q {queues} " in (FOLDER / "hivemind-dispatcher.service").read_text()


@pytest.mark.parametrize("part", ["gateway", "dispatcher"])
def test_a_part_that_hangs_is_killed(part: str) -> None:
    """Both say that they work, as tests/integration/test_up.py sees; the unit has to listen."""
    lines = (FOLDER / f"hivemind-{part}.service").read_text().splitlines()
    assert {"Type=notify", "WatchdogSec=30", "Restart=always"} <= set(lines)
