"""The built wheel in other people's environments: beside their packages, at both ends of its ranges, bare.

What is installed comes from the package index, as for everybody: a version that came out today is the newest.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pool import PoolFactory, TestPool
from tests.support.processes import open_folder
from tests.support.wheel import Venv, build_wheel, lowest_versions, newest_python
from worker_agent.trash import remove_tree

# With a folder `client` this found that instead of the SDK, and with the wheel proto-plus was gone.
PROGRAM = """\
import json, sys
import client
import gateway
import hivemind
import proto

class Message(proto.Message):
    text = proto.Field(proto.STRING, number=1)

address, username, password, task = sys.argv[1:]
with hivemind.NodePoolClient(address) as pool:
    pool.login(username, password)
    task_id = pool.submit(task, hivemind.TaskNeeds(memory_gb=1)).task_id
    ended = pool.wait(task_id, timeout_seconds=60)
    pool.result(task_id, "out", unpack=True)
    try:
        pool.status("no-such-task")
    except hivemind.MissingError as error:
        missing = error.code
print(json.dumps({
    "state": ended.state, "node": ended.node, "missing": missing,
    "client": client.WHO, "gateway": gateway.WHO, "proto": Message(text="x").text,
    "homes": [module.__file__ for module in (hivemind, proto)],
}))
"""
TASK = "import os\nopen('kept.txt', 'w').write(','.join(sorted(os.listdir('.'))))\n"

TYPED = """\
from hivemind import NodePoolClient, TaskNeeds, TaskState, UnreachableError

def state_of(pool: NodePoolClient) -> TaskState:
    try:
        sent = pool.submit("task/", TaskNeeds(memory_gb=2))
    except UnreachableError as error:
        raise SystemExit(error.hint) from error
    return pool.status(sent.task_id).state
"""
WRONG = """\
import hivemind
hivemind.NoSuchName
hivemind.TaskNeeds(memory_gb="two")
number: int = hivemind.NodePoolClient("a:1").token
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    folder = open_folder()
    yield folder
    remove_tree(folder)


@pytest.fixture(scope="module")
def wheel(folder: Path) -> str:
    return str(build_wheel(folder))


@pytest.fixture(scope="module")
def bare(folder: Path, wheel: str) -> Venv:
    return Venv.make(folder / "bare", wheel)


@pytest.fixture(scope="module")
def with_client(folder: Path, wheel: str) -> Venv:
    return Venv.make(folder / "client", f"{wheel}[client]")


@pytest.fixture(scope="module")
def lowest(folder: Path, wheel: str) -> Venv:
    return Venv.make(folder / "lowest", f"{wheel}[agent]", "proto-plus", *lowest_versions())


@pytest.fixture(scope="module")
def newest(folder: Path, wheel: str) -> Venv:
    return Venv.make(folder / "newest", f"{wheel}[agent]", "proto-plus", python=newest_python())


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    return pool_factory(agents=0)


@pytest.mark.parametrize("end", ["lowest", "newest"])
def test_the_sdk_and_the_agent_work_beside_other_peoples_modules(
    request: pytest.FixtureRequest, pool: TestPool, tmp_path: Path, end: str
) -> None:
    venv: Venv = request.getfixturevalue(end)
    (tmp_path / "client.py").write_text("WHO = 'a module beside the program'\n")
    (tmp_path / "gateway").mkdir()
    (tmp_path / "gateway/__init__.py").write_text("WHO = 'a package beside the program'\n")
    (tmp_path / "proto").mkdir()
    (tmp_path / "proto/mine.proto").write_text('syntax = "proto3";\n')
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "task").mkdir()
    for name in ("a.tmp", "kept.tmp", "a" * 60):
        (tmp_path / "task" / name).touch()
    (tmp_path / "task/main.py").write_text(TASK)
    (tmp_path / "task/.hivemindignore").write_text(f"*.tmp\n!kept.tmp\n{'*a' * 30}*b\n")

    agent = pool.add_agent(end, elsewhere=venv.program("hivemind-agent"))
    try:
        user = pool.owner
        done = venv.run(
            "python", "program.py", pool.address, user.username, user.password, "task", cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        told = json.loads(done.stdout)
        assert (told["state"], told["node"], told["missing"]) == ("SUCCEEDED", agent.node_id, "not_found")
        assert told["client"] == "a module beside the program"
        assert told["gateway"] == "a package beside the program"
        assert told["proto"] == "x"
        assert all(home.startswith(str(venv.folder)) for home in told["homes"])
        kept = (tmp_path / "out/kept.txt").read_text().split(",")
        assert {"main.py", "kept.tmp"} <= set(kept)
        assert "a.tmp" not in kept
    finally:
        agent.stop()


@pytest.mark.parametrize(
    ("venv", "program", "extra"),
    [
        ("bare", "hivemind", "client"),
        ("bare", "hivemind-agent", "agent"),
        ("with_client", "hivemind", None),
        ("with_client", "hivemind-agent", "agent"),
        ("lowest", "hivemind", None),
        ("lowest", "hivemind-agent", None),
        ("newest", "hivemind", None),
        ("newest", "hivemind-agent", None),
    ],
)
def test_help_is_there_or_one_line_says_what_to_install(
    request: pytest.FixtureRequest, venv: str, program: str, extra: str | None
) -> None:
    done = request.getfixturevalue(venv).run(program, "--help")
    if extra is None:
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.lower().startswith(f"usage: {program} ")
    else:
        assert (done.returncode, done.stdout) == (2, "")
        run = rf"pip install 'hivemind-nodepool\[{extra}\]'"
        line = rf"{program}: the package '\w+' is not installed; run: {run}\n"
        assert re.fullmatch(line, done.stderr), done.stderr


def test_the_sdk_needs_no_extra(bare: Venv) -> None:
    program = "import hivemind; [getattr(hivemind, name) for name in hivemind.__all__]"
    done = bare.run("python", "-W", "error", "-c", program)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_command_that_lacks_one_package_says_so(bare: Venv, folder: Path, wheel: str) -> None:
    """Whoever has click of something else sees help, and no traceback of a command."""
    venv = Venv.make(folder / "click", wheel, "click")
    done = venv.run("hivemind", "--gateway", "127.0.0.1:1", "nodes")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: the package 'rich' is not installed; run: pip install 'hivemind-nodepool[client]'\n"
    )


@pytest.mark.parametrize("command", [("up",), ("up", "--help"), ("ledger", "verify")])
def test_the_servers_commands_say_where_the_server_is(with_client: Venv, command: tuple[str, ...]) -> None:
    done = with_client.run("hivemind", *command)
    assert (done.returncode, done.stdout) == (2, "")
    name = "verify" if "verify" in command else "up"
    assert done.stderr == (
        f"error: '{name}' is a command of the server, and the server is not in this package; "
        "it runs from a checkout of the repository, or from the image\n"
    )
    listed = with_client.run("python", "-m", "hivemind", "--help")
    assert listed.returncode == 0
    assert "  submit " in listed.stdout
    assert "  up " not in listed.stdout


def test_nothing_is_left_when_it_is_removed(folder: Path, wheel: str) -> None:
    venv = Venv.make(folder / "removed")
    before = venv.files()
    venv.install("--no-deps", wheel)
    assert venv.files() - before
    assert venv.run("hivemind", "--help").returncode == 2
    venv.uninstall("hivemind-nodepool")
    assert venv.files() - before == {".lock"}, "uv's own"


def test_type_checkers_see_what_the_sdk_takes_and_gives(bare: Venv, tmp_path: Path) -> None:
    (tmp_path / "typed.py").write_text(TYPED)
    (tmp_path / "wrong.py").write_text(WRONG)
    done = subprocess.run(
        [
            sys.executable, "-m", "mypy", "--strict", "--python-executable", str(bare.program("python")),
            "--cache-dir", str(tmp_path / "cache"), "typed.py", "wrong.py",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )  # fmt: skip
    assert [line.rsplit("[", 1)[1] for line in done.stdout.splitlines() if ": error: " in line] == [
        "attr-defined]",
        "arg-type]",
        "assignment]",
    ], done.stdout + done.stderr
    assert "typed.py" not in done.stdout
