"""The small parts of the runners: streams, watching, sharing, looking at processes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.waiting import wait_until
from worker_agent.runners import counting, proc
from worker_agent.runners.base import RunRefusedError
from worker_agent.runners.container_run import memory_bytes
from worker_agent.runners.cpu_shares import CoreShares, UserPool
from worker_agent.runners.frames import Demultiplexer
from worker_agent.runners.process_run import read_status
from worker_agent.runners.requirements import bootstrap_for, install_problem
from worker_agent.runners.watch import Watcher, WatchLimits, look_into


def frame(stream: int, data: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


def test_frames_cut_anywhere_are_put_together() -> None:
    chooser = random.Random(7)
    parts = [chooser.randbytes(chooser.randrange(0, 50)) for _ in range(200)]
    wire = b"".join(frame(1 + number % 2, part) for number, part in enumerate(parts))
    demultiplexer, seen = Demultiplexer(), bytearray()
    while wire:
        size = chooser.randrange(1, 20)
        seen += b"".join(demultiplexer.feed(wire[:size]))
        wire = wire[size:]
    assert bytes(seen) == b"".join(parts)


def test_memory_without_droppable_cache_is_counted() -> None:
    assert memory_bytes({"usage": 100, "stats": {"total_inactive_file": 30}}) == 70
    assert memory_bytes({"usage": 100, "stats": {"inactive_file": 10}}) == 90
    assert memory_bytes({}) == 0


def test_a_watcher_calls_until_a_tick_is_done() -> None:
    watcher = Watcher("test")
    calls: list[int] = []

    def tick() -> float | None:
        calls.append(1)
        return 0.0 if len(calls) < 3 else None

    later = threading.Event()
    watcher.add(lambda: later.set() or None, 0.01)
    watcher.add(tick, 0.0)
    wait_until(lambda: len(calls) == 3 and later.is_set(), "all ticks were called")
    watcher.close()
    assert len(calls) == 3


def test_a_closed_watcher_starts_no_thread() -> None:
    watcher = Watcher("test")
    watcher.close()
    watcher.add(lambda: None, 0.0)
    watcher.close()


def test_a_working_directory_is_added_up_with_its_holes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/data").write_bytes(bytes(5000))
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 20)
    assert look_into((tmp_path,), 2 << 20).problem == ""
    assert look_into((tmp_path,), 1 << 20).problem == f"the working directory grew over {1 << 20} bytes"


def test_a_link_is_not_followed_when_adding_up(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/usr")
    assert look_into((tmp_path,), 1 << 20).problem == ""


def test_folders_within_folders_without_end_are_a_problem(tmp_path: Path) -> None:
    (tmp_path / "/".join(["d"] * 120)).mkdir(parents=True)
    assert "nested more than 100 deep" in look_into((tmp_path,), 1 << 30).problem


def test_a_run_over_its_time_is_a_problem(tmp_path: Path) -> None:
    limits = WatchLimits((tmp_path,), max_run_seconds=10, max_workdir_bytes=1 << 20)
    assert limits.check() == ""
    limits.started -= 11
    assert limits.check() == "the task ran longer than 10 seconds"
    assert limits.seconds_left() < 0


def test_cores_are_handed_out_evenly() -> None:
    shares = CoreShares({0, 1, 2, 3})
    first, second = shares.take(2), shares.take(1.5)
    assert first | second == {0, 1, 2, 3}
    shares.give_back(first)
    assert shares.take(2) == first
    assert shares.take(100) == {0, 1, 2, 3}
    assert len(shares.take(0.1)) == 1


def test_users_are_locked_across_pools_and_used_again(tmp_path: Path) -> None:
    uid = 2_000_000_000  # nobody's
    first, second = UserPool(uid, 2, tmp_path / "locks"), UserPool(uid, 2, tmp_path / "locks")
    one, two = first.acquire(), second.acquire()
    assert {one, two} == {uid, uid + 1}
    with pytest.raises(RunRefusedError, match="taken"):
        first.acquire()
    first.release(one, alone=True)
    assert first.acquire() == one
    assert not second.owns_or_locks(one)
    first.close()
    assert second.owns_or_locks(one)
    second.close()


def test_a_user_of_this_machine_is_never_handed_out(tmp_path: Path) -> None:
    pool = UserPool(os.getuid(), 1, tmp_path / "locks")
    with pytest.raises(RunRefusedError):
        pool.acquire()
    pool.close()


def test_a_process_tree_is_seen_with_its_start_and_usage() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "import os, sys; os.fork(); os.write(1, b'up\\n'); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdin is not None
    with child.stdout, child.stdin:
        assert child.stdout.readline() == child.stdout.readline() == b"up\n"
        assert len(proc.descendants(child.pid)) == 1
        began = proc.start_ticks(child.pid)
        assert began is not None
        assert began == proc.start_ticks(child.pid)
        assert proc.tree_usage(child.pid).memory_bytes > 1 << 20
        assert 0 < counting.resident_bytes([child.pid], ()) <= proc.tree_usage(child.pid).memory_bytes
        assert child.pid in proc.processes_of_user(os.geteuid())
        assert proc.threads_of_user(os.geteuid()) >= 2
    child.wait()
    assert proc.start_ticks(child.pid) is None
    assert proc.descendants(child.pid) == []


def _told(text: bytes) -> int:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    os.write(writer, text)
    os.close(writer)
    return reader


def test_bubblewraps_account_tells_whether_the_task_began() -> None:
    began = read_status(_told(b'{ "child-pid": 42, "mnt-namespace": 1 }\n{ "exit-code": 0 }\n'))
    assert (began.first_pid, began.began) == (42, True)
    failed = read_status(_told(b'{ "child-pid": 42 }\n'))
    assert (failed.first_pid, failed.began) == (42, False)
    nothing = read_status(_told(b""))
    assert (nothing.first_pid, nothing.began) == (None, False)
    torn = read_status(_told(b'{ "child-pid": 42 }\n{ "exit'))
    assert torn.began is False


def test_a_package_without_requirements_needs_no_bootstrap(tmp_path: Path) -> None:
    assert bootstrap_for(tmp_path) is None
    assert install_problem(None, network=False, exit_code=1) == ""


def test_a_task_that_fails_after_its_requirements_fails_for_its_own_reason(tmp_path: Path) -> None:
    work_dir = tmp_path / "work"
    work_dir.mkdir()
    (work_dir / "requirements.txt").write_text("x")
    bootstrap = bootstrap_for(work_dir)
    assert bootstrap is not None
    assert "network" in install_problem(bootstrap, network=False, exit_code=1)
    assert install_problem(bootstrap, network=True, exit_code=1) == "requirements.txt could not be installed"
    assert install_problem(bootstrap, network=True, exit_code=0) == ""
    (bootstrap.host_dir / ".satisfied").touch()
    assert install_problem(bootstrap, network=False, exit_code=1) == ""
