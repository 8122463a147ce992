"""What a run leaves behind never reaches the next one that gets its user."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from nodepool.domain.nodes.isolation import Isolation
from tests.support.environment import ROOT, not_here
from tests.support.ordinary import python_of_anybody
from tests.support.runs import RunFactory
from tests.support.waiting import wait_until
from worker_agent.runners import left_files, proc
from worker_agent.runners.base import RunRefusedError
from worker_agent.runners.cpu_shares import UserPool
from worker_agent.runners.process import ProcessRunner

# Nobody's, and not those of a test run beside this one.
FIRST_UID = 2_000_000_000 + 4 * os.getpid()
LEAVES = """
import ctypes, os
for folder in ('/tmp', '/var/tmp', '/dev/shm'):
    os.makedirs(f'{folder}/%(mark)s/deep', exist_ok=True)
    open(f'{folder}/%(mark)s/deep/file', 'w').write('secret')
print(ctypes.CDLL(None).shmget(%(key)d, 4096, 0o1600))
print(ctypes.CDLL(None).msgget(%(key)d, 0o1600))
print(ctypes.CDLL(None).semget(%(key)d, 1, 0o1600))
if os.fork() == 0:
    os.setsid()
    os.closerange(0, 3)
    while True:
        pass
"""
# Root's own, so that nobody but it can take the zombie away.
KEEPS_A_ZOMBIE = """
import os, sys
if (child := os.fork()) == 0:
    os.setresuid(%(uid)d, %(uid)d, %(uid)d)
    os._exit(0)
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
print('dead', flush=True)
sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def _as_root() -> None:
    if os.geteuid() != 0:
        not_here("only root can drop to other users")


@pytest.fixture
def users(tmp_path: Path) -> Iterator[UserPool]:
    proc.adopt_orphans()  # as an agent does: it can take away what its runs leave
    pool = UserPool(FIRST_UID, 2, tmp_path / "locks")
    yield pool
    pool.close()


@pytest.fixture
def mark(tmp_path: Path) -> str:
    return f"hm-left-{abs(hash(tmp_path)) % 1_000_000_000}"


def test_everything_of_a_user_is_gone_before_it_is_anothers(users: UserPool, mark: str) -> None:
    uid = users.acquire()
    code = LEAVES % {"mark": mark, "key": int(mark.rpartition("-")[2]) + 1}
    told = subprocess.run(
        [python_of_anybody(), "-c", code], user=uid, group=uid, cwd="/", check=True, stdout=subprocess.PIPE
    )
    assert "-1" not in told.stdout.decode()
    assert left_files.remains(uid) != ""
    users.release(uid, alone=False)
    assert left_files.remains(uid) == ""
    assert [Path(folder, mark).exists() for folder in ("/tmp", "/var/tmp", "/dev/shm")] == [False] * 3
    assert users.acquire() == uid


def test_a_user_with_a_zombie_that_cannot_be_taken_away_is_set_aside(users: UserPool) -> None:
    uid = users.acquire()
    keeper = subprocess.Popen(
        [sys.executable, "-c", KEEPS_A_ZOMBIE % {"uid": uid}],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    with keeper.stdin, keeper.stdout:
        try:
            assert keeper.stdout.readline() == b"dead\n"
            users.release(uid, alone=False)
            other = users.acquire()
            assert other != uid
            with pytest.raises(RunRefusedError, match="taken"):
                users.acquire()
        finally:
            keeper.stdin.write(b"\n")
            keeper.stdin.flush()
            keeper.wait()
    # Whose the zombie is now takes it away.
    assert wait_until(lambda: acquired(users), "the user is clean") == uid


def acquired(users: UserPool) -> int | None:
    with suppress(RunRefusedError):
        return users.acquire()
    return None


def test_root_without_namespaces_is_no_isolation_and_leaves_nothing_to_the_next(
    run_folder: Path, mark: str
) -> None:
    runner = ProcessRunner(run_folder / "state", use_bubblewrap=False, use_namespaces=False)
    try:
        assert runner.isolation is Isolation.NONE
        runs = RunFactory(runner, run_folder)
        code = f"import os; print(os.getuid(), open('/tmp/{mark}', 'w').write('x'))"
        _, first = runs.script(code)
        assert not Path(f"/tmp/{mark}").exists()
        look = (
            f"import os; print(os.getuid()); print(os.path.exists({str(first.spec.work_dir)!r} + '/main.py'))"
        )
        _, second = runs.script(look)
        assert first.output.split()[0] == second.output.split()[0]
        assert second.output.split()[1] == "False"
        (run_folder / "closed").mkdir(mode=0o700)
        with pytest.raises(RunRefusedError, match="cannot get through"):
            RunFactory(runner, run_folder / "closed").script("pass")
    finally:
        runner.close()


def test_a_launcher_that_was_ended_is_begun_again(run_folder: Path) -> None:
    runner = ProcessRunner(run_folder / "state")
    try:
        launcher = runner._spawner._server._process
        assert launcher is not None
        launcher.kill()
        launcher.wait()
        end, live = RunFactory(runner, run_folder).script("print('again')")
        assert (end.exit_code, live.output) == (0, "again\n")
    finally:
        runner.close()


def test_ordinary_programs_go_on_working(runs: RunFactory) -> None:
    """Threads, processes, queues, locks, sockets, a database: what a filter of calls must not break."""
    code = (ROOT / "tests/support/ordinary_program.py").read_text()
    end, live = runs.script(code)
    assert (end.exit_code, live.output) == (0, "all of it worked\n")
