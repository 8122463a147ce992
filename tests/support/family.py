"""A task with several runs straight in the database, and nodes of many owners to run them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from nodepool.domain.ends.attempt_end import End
from nodepool.domain.ends.effects import FollowUp
from nodepool.domain.ends.task_runs import ParentTask, TaskRun
from nodepool.domain.tasks.reasons import NO_REASON
from nodepool.domain.tasks.states import Outcome
from nodepool.settings import Settings
from nodepool.stores.sql import placements as placing, replicas as replica_store, tasks as task_store
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.task_rows import AssignedTask, OwnedTask
from nodepool.workflows import replica_vote
from nodepool.workflows.attempt_end import Ended, end_in_sql
from nodepool.workflows.decision import Deciding, deciding
from tests.support.money import add_held_task, add_payer, spendable
from tests.support.stores import add_node, placement


@dataclass
class Family:
    """`owners[i]` has the node `n<i>`; `user_id` submits."""

    database: Database
    user_id: int
    owners: list[int]
    settings: Settings
    now: float = 100.0

    def node(self, index: int) -> str:
        return f"n{index}"

    def submit(self, replicas: int, task_id: str = "t", **columns: Any) -> str:
        def work(connection: Connection) -> str:
            columns.setdefault("created_at", self.now)
            add_held_task(
                connection, self.user_id, task_id, replicas=replicas, verification="pending", **columns
            )
            replica_store.add_runs_of(connection, task_id, range(1, replicas + 1), self.now)
            return task_id

        return self.database.write(work)

    def place(self, *placements: tuple[str, int]) -> set[str]:
        """(task, index of the node), all in one transaction; who was placed."""
        wanted = [
            placement(task_id, self.node(index), number=self.row(task_id).attempt_number + 1)
            for task_id, index in placements
        ]
        return self.database.write(lambda c: placing.place_all(c, wanted, self.now)).placed

    def claim(self, task_id: str, index: int) -> AssignedTask:
        attempt = f"{task_id}:{self.row(task_id).attempt_number}"
        owner, node, now = self.owners[index], self.node(index), self.now
        return self.database.write(lambda c: task_store.claim_attempt(c, attempt, node, owner, now))

    def running(self, task_id: str, index: int) -> None:
        assert self.place((task_id, index))
        self.claim(task_id, index)

    def end(
        self,
        task_id: str,
        index: int,
        digest: str = "",
        outcome: Outcome = Outcome.SUCCEEDED,
        *,
        after: float = 30.0,
        **facts: Any,
    ) -> Ended:
        self.now += after
        attempt = f"{task_id}:{self.row(task_id).attempt_number}"
        return self.end_attempt(attempt, index, digest, outcome, **facts)

    def end_attempt(
        self, attempt: str, index: int, digest: str, outcome: Outcome = Outcome.SUCCEEDED, **facts: Any
    ) -> Ended:
        values = {"exit_code": 0, "reason": NO_REASON, "has_result": bool(digest), "result_bytes": 1, **facts}
        end = End(outcome=outcome, digest=digest, **values)
        owner, node, now = self.owners[index], self.node(index), self.now
        return self.database.write(
            lambda c: end_in_sql(c, attempt, node, owner, end, settings=self.settings, now=now)
        )

    def stop(self, task_id: str) -> FollowUp | None:
        return self.database.write(lambda c: replica_vote.stop(c, task_id, self.deciding()))[1]

    def deciding(self) -> Deciding:
        return deciding(self.settings, self.now)

    def follow_up(
        self,
        task_id: str,
        follow: Callable[[Connection, ParentTask, Deciding], FollowUp] = replica_vote.follow_up,
    ) -> FollowUp:
        def work(connection: Connection) -> FollowUp:
            parent = replica_store.lock(connection, task_id)
            assert parent is not None
            return follow(connection, parent, self.deciding())

        return self.database.write(work)

    def is_due(self, task_id: str) -> bool:
        return self.database.read(lambda c: replica_vote.is_due(c, task_id, self.deciding()))

    def row(self, task_id: str) -> OwnedTask:
        return self.database.read(lambda c: task_store.find(c, task_id))

    def states(self, task_id: str) -> list[str]:
        return [run.state for run in self.runs(task_id)]

    def verdicts(self, task_id: str) -> list[str]:
        return [run.verification for run in self.runs(task_id)]

    def runs(self, task_id: str) -> list[TaskRun]:
        return list(self.database.read(lambda c: replica_store.runs_of(c, task_id)))

    def earned(self) -> list[int]:
        """By each owner, who began with nothing."""
        return self.database.read(lambda c: [spendable(c, owner) for owner in self.owners])

    def spent(self) -> int:
        """What the user paid or holds of the 1000 CPT."""
        return 1000 - self.database.read(lambda c: spendable(c, self.user_id))


def open_family(
    database: Database, owners: int = 6, *, audit_share: float = 0.0, docker_status: str = "running"
) -> Family:
    """Without Docker, the nodes have the lowest trust."""
    settings = Settings.model_validate({"audit_share": audit_share})

    def work(connection: Connection) -> Family:
        user_id = add_payer(connection, "user")
        ids = [add_payer(connection, f"owner{index}", grant=0) for index in range(owners)]
        for index, owner_id in enumerate(ids):
            add_node(connection, owner_id, f"n{index}", docker_status=docker_status)
        return Family(database, user_id, ids, settings)

    return database.write(work)
