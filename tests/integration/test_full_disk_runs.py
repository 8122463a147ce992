"""Runs on disks that are really full: none of them has succeeded, whatever its program made of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from nodepool.domain.tasks.reasons import ReasonCode
from tests.support.environment import not_here
from tests.support.processes import run_name
from tests.support.runs import MIB, RunFactory
from worker_agent.runners.base import Runner, RunRefusedError
from worker_agent.runners.disk_room import DiskHealth, DiskRoom, Room
from worker_agent.runners.docker import DockerRunner
from worker_agent.runners.process import ProcessRunner

DISK_MIB = 48
# Programs that do not look at what became of what they wrote.
FILLS = """
try:
    with open('out.bin', 'wb', buffering=0) as out:
        for _ in range(1024):
            out.write(bytes(1 << 20))
except OSError:
    pass
print('done')
"""
SMALL = "open('out.txt', 'w').write('here')"
IGNORES = """
try:
    open('out.txt', 'w').write('x' * 5000000)
except OSError:
    pass
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    if os.geteuid() != 0:
        not_here("only root mounts a disk")
    folder = tmp_path / "disk"
    folder.mkdir(mode=0o711)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=0711", "tmpfs", str(folder)], check=True
    )
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(params=["process", pytest.param("docker", marks=pytest.mark.docker)])
def runs(request: pytest.FixtureRequest, disk: Path, tmp_path: Path) -> Iterator[RunFactory]:
    if request.param == "docker":
        request.getfixturevalue("docker_engine")
        image = request.getfixturevalue("test_image")
        runner: Runner = DockerRunner(f"tester/{run_name()}")
        factory = RunFactory(runner, disk, image=image)
    else:
        runner = ProcessRunner(tmp_path / "state")
        factory = RunFactory(runner, disk)
    yield factory
    factory.end_all()
    runner.close()


def fill(disk: Path, left_bytes: int) -> Path:
    """Somebody else fills the disk."""
    ballast = disk / "ballast"
    room = Room.of(disk)
    assert room is not None
    ballast.write_bytes(bytes(max(0, room.free_bytes - left_bytes)))
    return ballast


def code_of(runs: RunFactory, program: str) -> ReasonCode:
    with pytest.raises(RunRefusedError) as refused:
        runs.script(program)
    return refused.value.code


def test_a_run_that_fills_a_disk_smaller_than_what_it_may_have_is_refused_and_not_cut(
    runs: RunFactory,
) -> None:
    assert code_of(runs, FILLS) is ReasonCode.TOO_LITTLE_DISK


def test_a_run_on_a_disk_that_others_have_filled_did_not_succeed(runs: RunFactory, disk: Path) -> None:
    ballast = fill(disk, 2 * MIB)
    assert code_of(runs, IGNORES) in {ReasonCode.DISK_FULL, ReasonCode.TOO_LITTLE_DISK}
    for left in disk.glob("work-*/out.txt"):
        left.unlink()
    ballast.unlink()
    end, live = runs.script(SMALL)
    assert (end.exit_code, end.problem) == (0, "")
    assert (live.spec.work_dir / "out.txt").read_text() == "here"


def test_a_node_says_that_it_is_unfit_before_it_is_full_and_fit_again_with_some_more(disk: Path) -> None:
    health = DiskHealth([disk])
    assert health.problem(20 * MIB) == ""
    ballast = fill(disk, 10 * MIB)
    assert "the node's disk is full: 10 MiB are free" in health.problem(20 * MIB)
    ballast.unlink()
    fill(disk, 17 * MIB)
    assert health.problem(20 * MIB), "at the brink it would come and go"
    (disk / "ballast").unlink()
    assert health.problem(20 * MIB) == ""


def test_a_disk_without_room_for_more_files_is_full(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,nr_inodes=60", str(disk)], check=True)
    health, run = DiskHealth([disk]), DiskRoom(disk, MIB)
    assert (health.problem(MIB), run.was_full()) == ("", False)
    for number in range(55):
        (disk / f"f{number}").touch()
    assert "files more fit" in health.problem(MIB)
    assert run.was_full()


@pytest.mark.docker
def test_an_engine_of_this_machine_tells_where_its_disk_is(docker_engine: docker.DockerClient) -> None:
    runner = DockerRunner(f"tester/{run_name()}")
    try:
        root = Path(docker_engine.info()["DockerRootDir"])
        assert runner.disks == ((root,) if root.is_dir() else ())
    finally:
        runner.close()
