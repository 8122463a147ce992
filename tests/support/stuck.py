"""Nodes that a test plays itself, as large or small as it wants, for tasks that wait."""

from __future__ import annotations

from typing import Any

from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.pool import TestPool
from tests.support.rogue import RogueNode
from tests.support.tasks import new_task_id, script

PACKAGE = script("print('hello')")


class PlayedNode(RogueNode):
    """Joins and leaves, drains and falls silent as the test says."""

    def drain(self, *, draining: bool = True) -> None:
        self._nodes("SetNodeDraining", pb.SetNodeDrainingRequest(node_id=self.node_id, draining=draining))

    def fall_silent(self) -> None:
        self.pool.valkey.admin.delete(self.report_key)

    def leave(self) -> None:
        self._nodes("DeregisterNode", pb.DeregisterNodeRequest(node_id=self.node_id))

    def _nodes(self, method: str, request: Any) -> Any:
        call = getattr(self.account.stubs.nodes, method)
        return call(request, metadata=self.account.metadata, timeout=CALL_SECONDS)


class Stage:
    """Nodes and tasks of one test on a pool that others use after it."""

    def __init__(self, pool: TestPool) -> None:
        self.pool = pool
        self.owner = pool.register_user()
        self.user = pool.register_user()
        self.nodes: list[PlayedNode] = []
        self._tasks: list[str] = []

    def node(self, name: str = "a", **facts: Any) -> PlayedNode:
        node = PlayedNode(self.pool, self.owner, name)
        node.join(**{"docker_status": "running", **facts})
        self.nodes.append(node)
        return node

    def submit(self, **needs: Any) -> str:
        for node in self.nodes:
            if self.pool.valkey.admin.exists(node.report_key):
                node.report()
        task_id = self.user.submit(PACKAGE, **needs)
        self._tasks.append(task_id)
        return task_id

    def submit_to(self, node: PlayedNode, account: Account) -> str:
        """A task for this node of the account's own."""
        request = pb.ExecuteTaskRequest(task_id=new_task_id(), node_id=node.node_id, task_zip=PACKAGE)
        account.stubs.workers.ExecuteTask(request, metadata=account.metadata, timeout=CALL_SECONDS)
        return request.task_id

    def placed(self, **needs: Any) -> str:
        task_id = self.submit(**needs)
        self.wait_placed(task_id)
        return task_id

    def wait_placed(self, task_id: str) -> None:
        self.pool.wait(lambda: self.user.detail(task_id).state == "PLACED", f"{task_id} is placed")

    def finish(self, task_id: str) -> None:
        """Whatever node has it ends it well, and has its room back."""
        assigned = self.user.detail(task_id).assigned_node
        node = next(node for node in self.nodes if node.node_id == assigned)
        attempt_id = node.attempt(task_id)
        node.claim(attempt_id)
        node.finish(node.end(attempt_id))

    def close(self) -> None:
        """Nothing waits any more, and no node is left."""
        for task_id in self._tasks:
            self.user.stop(task_id)
        for node in self.nodes:
            node.leave()
        admin = self.pool.valkey.admin
        self.pool.wait(lambda: not admin.exists("nodes"), "no node is left")
        # The gateway keeps what it saw for a moment: the next test is not told of these nodes.
        self.pool.wait(lambda: not explained(self.user, memory_gb=1).nodes_looked_at, "none is seen either")


def explained(account: Account, task_id: str = "", **needs: Any) -> pb.ExplainTaskResponse:
    """Of a task that was submitted, or with no id the dry run of one with these needs."""
    request = pb.ExplainTaskRequest(task_id=task_id)
    if not task_id:
        request = pb.ExplainTaskRequest(task=pb.UploadTaskRequest(**needs))
    return account.stubs.tasks.ExplainTask(request, metadata=account.metadata, timeout=CALL_SECONDS)
