"""Tasks that wait for a word from the test, and what the pool's database remembers of their attempts."""

from __future__ import annotations

import contextlib
import re
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil

from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.pool import TestAgent, TestPool
from tests.support.tasks import script, unpacked
from worker_agent.runners.sandbox import attempt_slug

# Each run says who it is, waits until the test lays a file into its working directory, and ends.
WAITS = r"""
import os, pathlib, secrets, sys, time
me = secrets.token_hex(8)
sys.stdout.write(f"begun {me}\n")
while not os.path.exists("go"):
    time.sleep(0.05)
pathlib.Path("who.txt").write_text(me)
sys.stdout.write(f"done {me}\n")
"""
# What whoever lost a task is answered, whatever they say of it.
REFUSED = dict.fromkeys(
    ("claim", "append", "succeeded", "failed", "lost"), grpc.StatusCode.FAILED_PRECONDITION
)


@dataclass(frozen=True)
class AttemptRow:
    number: int
    node_id: str
    state: str
    exit_code: int | None


def attempts_of(pool: TestPool, task_id: str) -> list[AttemptRow]:
    """Every attempt that a pool on SQLite ever made at the task, the first one first."""
    url = f"file:{pool.folder / 'users.db'}?mode=ro"
    query = "SELECT number, node_id, state, exit_code FROM attempts WHERE task_id = ? ORDER BY number"
    with contextlib.closing(sqlite3.connect(url, uri=True, timeout=60)) as connection:
        return [AttemptRow(*row) for row in connection.execute(query, (task_id,))]


def begun(user: Account, task_id: str) -> str:
    """What the current attempt calls itself; empty until it has begun."""
    name = re.search(r"^begun (\w+)\n", user.logs(task_id))
    return name[1] if name else ""


def await_begun(pool: TestPool, user: Account, task_id: str, *, other_than: str = "") -> str:
    """What the run calls itself, once one that is not `other_than` has begun."""
    pool.wait(lambda: begun(user, task_id) not in ("", other_than), f"{task_id} has begun")
    return begun(user, task_id)


def folder_of(pool: TestPool, agent: TestAgent, task_id: str, number: int = 1) -> Path:
    """The run's working directory, as the agent's machine has it."""
    data = pool.folder / agent.name
    return data / "runs" / attempt_slug(pool.attempt(task_id, number)) / "work"


def let_go(pool: TestPool, agent: TestAgent, task_id: str, number: int = 1) -> None:
    """Ends the wait of a run of WAITS."""
    go = folder_of(pool, agent, task_id, number) / "go"
    go.touch()
    go.chmod(0o644)


def runs_of(pool: TestPool, agent: TestAgent) -> list[psutil.Process]:
    """Living processes of the agent's runs: their folders are in their command lines, or they are in them."""
    folder = str(pool.folder / agent.name / "runs")
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and any(
                folder in place for place in (*process.cmdline(), process.cwd())
            ):
                found.append(process)
    return found


def runs(pool: TestPool, agent: TestAgent, task_id: str, number: int = 1) -> bool:
    """Whether a process of this attempt lives on the agent's machine."""
    folder = str(folder_of(pool, agent, task_id, number).parent)
    for process in runs_of(pool, agent):
        with contextlib.suppress(psutil.Error):
            if any(folder in place for place in (*process.cmdline(), process.cwd())):
                return True
    return False


def late_effects(pool: TestPool, agent: TestAgent, task_id: str, number: int) -> dict[str, grpc.StatusCode]:
    """What the gateway says to an agent's claim, output and end of an attempt, told with its own token."""
    nodes, attempt = agent.owner.stubs.nodes, pool.attempt(task_id, number)
    data = secrets.token_bytes(100)

    def claim() -> None:
        request = pb.ClaimAttemptRequest(node_id=agent.node_id, attempt_id=attempt)
        list(nodes.ClaimAttempt(request, metadata=agent.owner.metadata, timeout=CALL_SECONDS))

    def append() -> None:
        request = pb.AppendOutputRequest(
            node_id=agent.node_id, attempt_id=attempt, offset=0, data=b"from the grave"
        )
        nodes.AppendOutput(request, metadata=agent.owner.metadata, timeout=CALL_SECONDS)

    def finish(outcome: pb.AttemptOutcome.ValueType) -> None:
        end = pb.AttemptEnd(
            node_id=agent.node_id,
            attempt_id=attempt,
            outcome=outcome,
            output_tail=b"from the grave",
            result_bytes=len(data),
        )
        parts = [pb.FinishAttemptRequest(end=end), pb.FinishAttemptRequest(result_chunk=data)]
        messages: Iterator[pb.FinishAttemptRequest] = iter(parts)
        nodes.FinishAttempt(messages, metadata=agent.owner.metadata, timeout=CALL_SECONDS)

    calls: dict[str, Callable[[], None]] = {
        "claim": claim,
        "append": append,
        "succeeded": lambda: finish(pb.ATTEMPT_OUTCOME_SUCCEEDED),
        "failed": lambda: finish(pb.ATTEMPT_OUTCOME_FAILED),
        "lost": lambda: finish(pb.ATTEMPT_OUTCOME_LOST),
    }
    answers = {}
    for name, call in calls.items():
        answers[name] = grpc.StatusCode.OK
        try:
            call()
        except grpc.RpcError as error:
            answers[name] = error.code()
    return answers


def begin_on(pool: TestPool, user: Account, count: int) -> dict[str, str]:
    """Tasks that run and wait: task id -> what its first run calls itself."""
    tasks = [user.submit(script(WAITS)) for _ in range(count)]
    return {task: await_begun(pool, user, task) for task in tasks}


def await_second_runs(pool: TestPool, user: Account, first: dict[str, str]) -> dict[str, str]:
    return {task: await_begun(pool, user, task, other_than=name) for task, name in first.items()}


def check_ended_once(
    pool: TestPool, user: Account, task: str, lost: TestAgent, other: TestAgent, name: str
) -> None:
    """COMPLETED by the second attempt on the other node, whose output and result are the task's."""
    assert attempts_of(pool, task) == [
        AttemptRow(1, lost.node_id, "lost", None),
        AttemptRow(2, other.node_id, "finished", 0),
    ]
    detail = user.detail(task)
    assert (detail.attempt_number, detail.assigned_node) == (2, other.node_id)
    assert user.logs(task) == f"begun {name}\ndone {name}\n"
    files = unpacked(user.result(task))
    assert files["who.txt"].decode() == name
    assert files["task_logs.txt"].decode() == f"begun {name}\ndone {name}\n"


def refusals(agent: TestAgent) -> int:
    """How many attempts the agent was told are not its own any more, or gave up by itself."""
    log = agent.log()
    return log.count("attempt.stale") + log.count("cause='away'")
