"""Runners and agents as tests use them: with real processes, in folders of their own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodepool.domain.nodes.isolation import Isolation
from tests.support.agent_stage import Stage, StageMaker
from tests.support.environment import not_here
from tests.support.processes import run_name
from tests.support.runs import RunFactory, task_processes
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until
from worker_agent.runners.process import ProcessRunner


@pytest.fixture
def run_folder() -> Iterator[Path]:
    # Not pytest's: its folders are closed to other users, and a run without bubblewrap must get through.
    path = Path(tempfile.mkdtemp(prefix=f"hm-run-{run_name()}-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def _runs(folder: Path, *, use_bubblewrap: bool) -> Iterator[RunFactory]:
    runner = ProcessRunner(folder / "state", use_bubblewrap=use_bubblewrap)
    try:
        if use_bubblewrap and runner.isolation is not Isolation.BUBBLEWRAP:
            not_here("bubblewrap does not work on this machine")
        runs = RunFactory(runner, folder)
        yield runs
        runs.end_all()
        wait_until(lambda: not task_processes(folder.name), "no process of a run is left")
        assert list((folder / "state/runs").iterdir()) == []
        assert list((folder / "state/homes").iterdir()) == []
    finally:
        runner.close()


@pytest.fixture(params=["sandboxed", "plain"])
def runs(request: pytest.FixtureRequest, run_folder: Path) -> Iterator[RunFactory]:
    """The process runner in the strongest sandbox of this machine, and without any."""
    yield from _runs(run_folder, use_bubblewrap=request.param == "sandboxed")


@pytest.fixture
def sandboxed(run_folder: Path) -> Iterator[RunFactory]:
    """The process runner with bubblewrap."""
    yield from _runs(run_folder, use_bubblewrap=True)


@pytest.fixture
def unsandboxed(run_folder: Path) -> Iterator[RunFactory]:
    """The process runner with limits, and namespaces at best."""
    yield from _runs(run_folder, use_bubblewrap=False)


@pytest.fixture
def make_stage(run_folder: Path, valkey: TestValkey) -> Iterator[StageMaker]:
    """make_stage(lease_seconds=…): an agent that is not started yet, and what is around it."""
    stages: list[Stage] = []

    def make(**enrolment: object) -> Stage:
        stage = Stage(run_folder, valkey, **enrolment)
        stages.append(stage)
        return stage

    yield make
    for stage in stages:
        stage.close()
    wait_until(lambda: not task_processes(run_folder.name), "no process of a run is left")


@pytest.fixture
def stage(make_stage: StageMaker) -> Stage:
    """An agent that is online."""
    return make_stage().start()
