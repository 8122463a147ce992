"""A node that a test plays itself: registered and enrolled like an agent, then as bad as the test wants."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from typing import Any

from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.pool import TestPool
from tests.support.tasks import new_task_id, package, script

RESULT = package({"made.txt": "made", "execution_log.txt": "exit", "task_logs.txt": "said\n"})
REPORT_TTL_SECONDS = 60
MAX_RESULT_BYTES = CHUNK_LIMIT_BYTES = 1 << 20
# What a pool with such nodes needs to be set to.
SETTINGS = {
    "NODE_LATE_SECONDS": "60",
    "LEASE_SECONDS": "50",
    "MAX_RESULT_BYTES": str(MAX_RESULT_BYTES),
    "MAX_LIVE_OUTPUT_BYTES": str(64 << 10),
}


_TASKS: dict[str, str] = {}


class RogueNode:
    """One node of one user. It reports when it joins and before it is given work, not by itself.

    So the pool's NODE_LATE_SECONDS must be long, as in SETTINGS.
    """

    def __init__(self, pool: TestPool, account: Account, name: str = "rogue") -> None:
        self.pool = pool
        self.account = account
        self.node_id = f"{account.username}/{name}"
        self.report_key = ""
        self.broker_url = ""

    def register(self, **fields: Any) -> None:
        """As a small node without Docker, but for these fields."""
        facts = {
            "node_id": self.node_id, "hostname": "rogue", "cpu_cores": 4, "memory_gb": 4, "cpu_score": 4000,
            "location": "Asia", "kind": "agent", "docker_status": "unavailable", "max_tasks": 8,
            "isolation": "bubblewrap",
        }  # fmt: skip
        request = pb.RegisterWorkerNodeRequest(**{**facts, **fields})
        stub = self.account.stubs.nodes
        stub.RegisterWorkerNode(request, metadata=self.account.metadata, timeout=CALL_SECONDS)

    def join(self, **fields: Any) -> RogueNode:
        self.register(**fields)
        stub = self.account.stubs.nodes
        enrolled = stub.EnrollAgent(
            pb.EnrollAgentRequest(node_id=self.node_id), metadata=self.account.metadata, timeout=CALL_SECONDS
        )
        self.report_key = enrolled.report_key
        self.broker_url = enrolled.broker_url
        self.report()
        return self

    def report(self) -> None:
        report = {"v": 1, "at": time.time(), "cpu_percent": 0.0, "memory_percent": 0.0, "running": []}
        self.pool.valkey.admin.set(self.report_key, json.dumps(report), ex=REPORT_TTL_SECONDS)

    def given(self, source: str = "print('hello')") -> str:
        """The attempt of a new task of this user that was placed here."""
        self.report()
        task_id = new_task_id()
        request = pb.ExecuteTaskRequest(task_id=task_id, node_id=self.node_id, task_zip=script(source))
        metadata, timeout = self.account.metadata, CALL_SECONDS
        self.account.stubs.workers.ExecuteTask(request, metadata=metadata, timeout=timeout)
        self.pool.wait(lambda: self.account.detail(task_id).state == "PLACED", f"{task_id} is placed")
        return self.attempt(task_id)

    def chosen(self, source: str = "print('hello')", **needs: Any) -> str:
        """The attempt of a new task of this user that the pool chose this node for."""
        self.report()
        task_id = self.account.submit(script(source), **needs)
        self.pool.wait(lambda: self.account.detail(task_id).state == "PLACED", f"{task_id} is placed")
        assert self.account.detail(task_id).assigned_node == self.node_id
        return self.attempt(task_id)

    def attempt(self, task_id: str) -> str:
        """The first attempt of a task that was placed."""
        attempt_id = self.pool.attempt(task_id)
        _TASKS[attempt_id] = task_id
        return attempt_id

    def info(self) -> pb.WorkerNodeInfo:
        return next(node for node in self.account.node_list() if node.node_id == self.node_id)

    def claim(self, attempt_id: str, **fields: Any) -> pb.AttemptSpec:
        request = pb.ClaimAttemptRequest(**{"node_id": self.node_id, "attempt_id": attempt_id, **fields})
        metadata = self.account.metadata
        answers = self.account.stubs.nodes.ClaimAttempt(request, metadata=metadata, timeout=CALL_SECONDS)
        first, *_ = answers
        return first.spec

    def package_of(self, attempt_id: str) -> bytes:
        return self.claim_whole(attempt_id)[1]

    def claim_whole(self, attempt_id: str) -> tuple[pb.AttemptSpec, bytes]:
        """And takes the package with it."""
        request = pb.ClaimAttemptRequest(node_id=self.node_id, attempt_id=attempt_id)
        metadata = self.account.metadata
        answers = self.account.stubs.nodes.ClaimAttempt(request, metadata=metadata, timeout=CALL_SECONDS)
        first, *rest = answers
        return first.spec, b"".join(answer.package_chunk for answer in rest)

    def finish_with(self, attempt_id: str, result: bytes) -> pb.FinishAttemptResponse:
        digest = hashlib.sha256(result).hexdigest()
        return self.finish(self.end(attempt_id, result_sha256=digest, result_bytes=len(result)), result)

    def append(self, attempt_id: str, data: bytes, offset: int = 0, **fields: Any) -> pb.AppendOutputResponse:
        request = pb.AppendOutputRequest(
            **{"node_id": self.node_id, "attempt_id": attempt_id, "offset": offset, "data": data, **fields}
        )
        metadata = self.account.metadata
        return self.account.stubs.nodes.AppendOutput(request, metadata=metadata, timeout=CALL_SECONDS)

    def end(self, attempt_id: str, **fields: Any) -> pb.AttemptEnd:
        """A good end with RESULT, but for these fields."""
        good = {
            "node_id": self.node_id,
            "attempt_id": attempt_id,
            "outcome": pb.ATTEMPT_OUTCOME_SUCCEEDED,
            "result_sha256": hashlib.sha256(RESULT).hexdigest(),
            "result_bytes": len(RESULT),
        }
        return pb.AttemptEnd(**{**good, **fields})

    def finish(self, end: pb.AttemptEnd, result: bytes = RESULT) -> pb.FinishAttemptResponse:
        def messages() -> Iterator[pb.FinishAttemptRequest]:
            yield pb.FinishAttemptRequest(end=end)
            if result:
                yield pb.FinishAttemptRequest(result_chunk=result)

        metadata = self.account.metadata
        return self.account.stubs.nodes.FinishAttempt(messages(), metadata=metadata, timeout=CALL_SECONDS)


def task_of(attempt_id: str) -> str:
    """Of an attempt that a RogueNode was given: the id itself says nothing."""
    return _TASKS[attempt_id]


def assert_unchanged(owner: Account, attempt_id: str, state: str = "RUNNING") -> None:
    """The first attempt is still as it was, and nothing that was injected is in its output."""
    detail = owner.detail(task_of(attempt_id))
    assert (detail.state, detail.attempt_number, detail.has_result) == (state, 1, False)
    assert "injected" not in owner.logs(task_of(attempt_id))


def assert_can_still_end(node: RogueNode, attempt_id: str) -> None:
    assert node.finish(node.end(attempt_id)).success
    assert node.account.poll(task_of(attempt_id)).status == "COMPLETED"
    assert node.account.result(task_of(attempt_id)) == RESULT
