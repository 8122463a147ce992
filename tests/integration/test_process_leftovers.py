"""What a process runner finds of its earlier lives, and what goes with an agent that dies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.environment import ROOT
from tests.support.runs import RunFactory, task_processes
from tests.support.waiting import wait_until
from worker_agent.runners import proc
from worker_agent.runners.process import ProcessRunner
from worker_agent.runners.sandbox import attempt_slug

SLEEPS = "import time; print('up', flush=True); time.sleep(600)"
FORKS = "import os, time; os.fork(); print('up', flush=True); time.sleep(600)"


def _killed_agent(run_folder: Path, script: str, *, use_bubblewrap: bool) -> None:
    """Start a runner in a process of its own, wait until its runs are up, and kill it alone."""
    code = f"""
import signal, threading
from pathlib import Path
from tests.support.runs import RunFactory
from worker_agent.runners.process import ProcessRunner
folder = Path({str(run_folder)!r})
runs = RunFactory(ProcessRunner(folder / "state", use_bubblewrap={use_bubblewrap}), folder)
def start(name, code):
    live = runs.start({{"main.py": code}}, attempt_id=f"{{folder.name}}-{{name}}:1")
    while "up" not in live.output:
        threading.Event().wait(0.01)
{script}
print("running", flush=True)
signal.pause()
"""
    agent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
    assert agent.stdout is not None
    with agent.stdout:
        while (line := agent.stdout.readline()) not in {b"running\n", b""}:
            pass  # what the runner logs
        agent.kill()
        agent.wait()
    assert line == b"running\n"


def test_reaping_ends_what_an_earlier_life_left_but_for_what_is_kept(run_folder: Path) -> None:
    script = f"start('one', {FORKS!r}); start('two', {SLEEPS!r})"
    _killed_agent(run_folder, script, use_bubblewrap=False)
    assert len(task_processes(f"{run_folder.name}-one")) == 2
    runner = ProcessRunner(run_folder / "state", use_bubblewrap=False)
    try:
        assert runner.reap({f"{run_folder.name}-two:1"}) == 1
        wait_until(lambda: not task_processes(f"{run_folder.name}-one"), "the one that is not kept is gone")
        assert len(task_processes(f"{run_folder.name}-two")) == 1
        assert runner.reap([]) == 1
        wait_until(lambda: not task_processes(run_folder.name), "nothing is left")
        assert runner.reap([]) == 0
    finally:
        runner.close()


def test_a_sandbox_ends_with_its_agent(sandboxed: RunFactory, run_folder: Path) -> None:
    inner = run_folder / "inner"
    inner.mkdir()
    _killed_agent(inner, f"start('one', {FORKS!r})", use_bubblewrap=True)
    wait_until(lambda: not task_processes("inner-one"), "the sandbox is gone")
    runner = ProcessRunner(inner / "state")
    try:
        assert runner.reap([]) == 0
    finally:
        runner.close()


def test_reaping_never_ends_a_process_that_only_has_the_same_pid(run_folder: Path) -> None:
    runner = ProcessRunner(run_folder / "state")
    bystander = subprocess.Popen(["sleep", "600"])
    try:
        record = run_folder / "state/runs" / attempt_slug("old:1")
        entry = {
            "attempt_id": "old:1",
            "pid": bystander.pid,
            "start_ticks": (proc.start_ticks(bystander.pid) or 0) - 1,
            "boot_id": proc.boot_id(),
            "uid": None,
        }
        record.write_text(json.dumps(entry))
        (run_folder / "state/runs/torn").write_text('{"attempt')
        assert runner.reap([]) == 0
        assert bystander.poll() is None
        assert list((run_folder / "state/runs").iterdir()) == []
    finally:
        bystander.kill()
        bystander.wait()
        runner.close()
