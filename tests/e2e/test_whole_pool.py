"""One task through every real part, as a client that knows only the wire contract sees it."""

from __future__ import annotations

import pytest

from tests.support.pool import TestPool
from tests.support.tasks import package, script, unpacked

HELLO = """
import os, pathlib
print("hello from", os.environ["TASK_ID"])
pathlib.Path("answer.txt").write_text(open("question.txt").read() + "42")
"""


def run_hello(pool: TestPool) -> None:
    user = pool.register_user()
    task = user.submit(package({"main.py": HELLO, "question.txt": "six by seven? "}), memory_gb=1)
    user.wait_for(task, "COMPLETED")
    assert f"hello from {task}" in user.logs(task)
    files = unpacked(user.result(task))
    assert files["answer.txt"] == b"six by seven? 42"
    assert f"hello from {task}".encode() in files["task_logs.txt"]
    assert b"Exit code: 0" in files["execution_log.txt"]


def test_a_task_runs_on_an_agent_and_its_files_come_back(pool: TestPool) -> None:
    run_hello(pool)


@pytest.mark.docker
def test_a_task_runs_in_a_container_and_its_files_come_back(docker_pool: TestPool) -> None:
    run_hello(docker_pool)


def test_a_failing_script_fails_its_task_with_its_exit_code(pool: TestPool) -> None:
    user = pool.register_user()
    task = user.submit(script("raise SystemExit(3)"))
    assert user.wait_for(task, "FAILED").detail.exit_code == 3


def test_a_task_is_stopped_and_keeps_what_there_is(pool: TestPool) -> None:
    user = pool.register_user()
    source = "import time\nopen('half.txt', 'w').write('half')\nprint('begun', flush=True)\ntime.sleep(600)\n"
    task = user.submit(script(source))
    pool.wait(lambda: "begun" in user.logs(task), "the task has begun")
    assert user.stop(task).success
    user.wait_for(task, "STOPPED")
    files = unpacked(user.result(task))
    assert files["half.txt"] == b"half"
    assert "task_stopped.txt" in files
