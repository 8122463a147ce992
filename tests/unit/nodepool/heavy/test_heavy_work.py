"""Worker processes: what they may use, what ends them, and that one account does not have all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from nodepool.domain.errors import RateLimitedError
from nodepool.domain.heavy_limits import HeavyLimits
from nodepool.heavy.processes import HeavyWork
from nodepool.heavy.worker import OutOfBoundsError, WorkerEndedError
from tests.support import heavy_jobs
from tests.support.environment import ROOT
from tests.support.waiting import wait_until

_SECONDS = 60


@pytest.fixture(scope="module")
def heavy() -> Iterator[HeavyWork]:
    work = HeavyWork(
        HeavyLimits(processes=2, cpu_seconds=1, memory_bytes=300 << 20, waiting_of_one=2, waiting=10)
    )
    yield work
    work.close()


def test_a_job_that_takes_too_much_is_ended_and_the_next_one_is_done(heavy: HeavyWork) -> None:
    with pytest.raises(OutOfBoundsError, match="time"):
        heavy.submit("rude", heavy_jobs.spin).result(_SECONDS)
    with pytest.raises(OutOfBoundsError, match="memory"):
        heavy.submit("rude", heavy_jobs.eat).result(_SECONDS)
    with pytest.raises(WorkerEndedError):
        heavy.submit("rude", heavy_jobs.die).result(_SECONDS)
    assert heavy.submit("rude", heavy_jobs.echo, 7).result(_SECONDS) == 7


def test_a_worker_is_nice_bounded_and_knows_no_setting(
    heavy: HeavyWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = heavy.submit("a", heavy_jobs.status).result(_SECONDS)
    assert int(status["nice"]) >= 15
    assert status["settings"] == ""
    assert status["NoNewPrivs"] == "1"
    # What is not dumpable belongs to root in /proc, and cannot be read or traced by others of its user.
    if os.geteuid() == 0:
        read = subprocess.run(
            ["setpriv", "--reuid=65534", "--clear-groups", "cat", f"/proc/{status['Pid']}/environ"],
            capture_output=True,
            check=False,
        )
        assert read.returncode != 0


def test_one_account_leaves_a_process_and_its_turn_to_others(heavy: HeavyWork, tmp_path: Path) -> None:
    go = tmp_path / "go"
    try:
        first = heavy.submit("rude", heavy_jobs.wait_for, str(go))
        others: list[Future[int]] = [heavy.submit("rude", heavy_jobs.wait_for, str(go)) for _ in range(2)]
        with pytest.raises(RateLimitedError):
            heavy.submit("rude", heavy_jobs.wait_for, str(go))
        assert heavy.submit("kind", heavy_jobs.echo, 1).result(_SECONDS) == 1
        assert not first.done()
        assert not any(other.done() for other in others)
    finally:
        go.touch()
    assert all(other.result(_SECONDS) for other in (first, *others))


_OWNER = """
import os, sys
from nodepool.domain.heavy_limits import HeavyLimits
from nodepool.heavy.processes import HeavyWork
from tests.support import heavy_jobs

if __name__ == "__main__":
    work = HeavyWork(HeavyLimits())
    print(work.submit("a", heavy_jobs.status).result(60)["Pid"], flush=True)
    work.submit("a", heavy_jobs.wait_for, "/nowhere")
    sys.stdin.read()
"""


def test_workers_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "owner.py"
    script.write_text(_OWNER)
    owner = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        owner.send_signal(signal.SIGKILL)
        wait_until(lambda: not _lives(pid), "the worker is gone")
    finally:
        owner.kill()
        owner.communicate()


def _lives(pid: int) -> bool:
    """A zombie of another parent does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
