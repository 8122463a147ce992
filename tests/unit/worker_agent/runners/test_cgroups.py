"""Finding control groups, and what is written into version 2: this machine may have version 1 alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker_agent.runners.cgroups import GroupLimits, RunGroup, hierarchies

MIB = 1 << 20
LIMITS = GroupLimits(memory_bytes=64 * MIB, processes=10, cpus=1.5)
UNIFIED = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
IN_CONTAINER = "40 35 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw"
OLD = """31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 25 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
34 25 0:30 / /tmp rw - tmpfs tmpfs rw"""


def test_version_2_is_found_where_this_process_is() -> None:
    (found,) = hierarchies(UNIFIED, ["0::/user.slice/user-1000.slice/app.scope"])
    assert found.controllers == frozenset()
    assert found.own == Path("/sys/fs/cgroup/user.slice/user-1000.slice/app.scope")
    assert found.top == Path("/sys/fs/cgroup")


def test_what_is_mounted_may_begin_at_the_process_itself() -> None:
    (found,) = hierarchies(IN_CONTAINER, ["0::/docker/abc"])
    assert found.own == found.top == Path("/sys/fs/cgroup")
    (elsewhere,) = hierarchies(IN_CONTAINER, ["0::/system.slice"])
    assert elsewhere.own == Path("/sys/fs/cgroup")


def test_controllers_of_version_1_are_found_together_and_apart() -> None:
    lines = ["4:memory:/agents/one", "2:cpu,cpuacct:/", "1:name=systemd:/", "0::/"]
    found = {tree.controllers: tree.own for tree in hierarchies(OLD, lines)}
    assert found == {
        frozenset({"memory"}): Path("/sys/fs/cgroup/memory/agents/one"),
        frozenset({"cpu", "cpuacct"}): Path("/sys/fs/cgroup/cpu,cpuacct"),
        frozenset(): Path("/sys/fs/cgroup/unified"),
    }


def _unified(folder: Path) -> RunGroup:
    for name in ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max", "cgroup.procs"):
        (folder / name).touch()
    return RunGroup(dict.fromkeys(("memory", "pids", "cpu"), folder), unified=True)


def test_every_limit_of_version_2_is_written(tmp_path: Path) -> None:
    group = _unified(tmp_path)
    group.limit(LIMITS)
    written = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert written == {
        "memory.max": str(64 * MIB),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "10",
        "cpu.max": "150000 100000",
        "cgroup.procs": "",
    }
    assert group.join_files == (str(tmp_path / "cgroup.procs"),)
    assert group.bounds_time


def test_a_limit_that_cannot_be_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"memory\.max"):
        RunGroup({"memory": tmp_path}, unified=True).limit(LIMITS)


def test_memory_is_told_without_what_the_kernel_would_drop(tmp_path: Path) -> None:
    group = _unified(tmp_path)
    (tmp_path / "memory.current").write_text("5000\n")
    (tmp_path / "memory.stat").write_text("anon 3000\ninactive_file 1500\n")
    (tmp_path / "memory.events").write_text("low 0\noom 3\noom_kill 1\n")
    assert group.memory_bytes() == 3500
    assert group.ran_out_of_memory()
