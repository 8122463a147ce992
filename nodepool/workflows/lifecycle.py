"""What is told outside SQL when attempts end: the present (Redis) and the hints, after the commit.

Whatever comes after the commit may fail: the sweep does it again from SQL. Decides nothing of the end itself
(see `attempt_end`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from nodepool.clock import Clock
from nodepool.domain import ids
from nodepool.domain.ends.attempt_end import End
from nodepool.domain.ends.effects import FollowUp
from nodepool.domain.errors import UnavailableError
from nodepool.domain.nodes.registered_node import RegisteredNode
from nodepool.domain.scheduling.fair_share import EXPECTED_MINUTES, cost_per_minute
from nodepool.domain.tasks.reasons import Reason
from nodepool.domain.tasks.states import FINAL_TASK_STATES, Outcome, TaskKind, TaskState
from nodepool.messaging.publisher import Publisher
from nodepool.settings import Settings
from nodepool.stores.files.file_store import FileStore
from nodepool.stores.redis.monitor_words import EndedWord, MonitorWords
from nodepool.stores.redis.node_registry import NodeRegistry
from nodepool.stores.redis.output import OutputStore
from nodepool.stores.redis.usage import UsageStore
from nodepool.stores.sql import credit as credit_store, nodes as node_store, tasks as task_store
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.node_rows import StoredNode
from nodepool.workflows import dependents
from nodepool.workflows.attempt_end import Ended, end_in_sql
from nodepool.workflows.dependents import Settled, Settling
from nodepool.workflows.kept_output import keep_lost_output

log = logging.getLogger(__name__)
_SECONDS_PER_MINUTE = 60


@dataclass(frozen=True, slots=True)
class Lifecycle:
    settings: Settings
    database: Database
    registry: NodeRegistry
    outputs: OutputStore
    usage: UsageStore
    publisher: Publisher
    clock: Clock
    files: Callable[[], FileStore] | None = None  # where output is kept that no result has
    monitor: MonitorWords | None = None  # whom Flower believes

    def end_attempt(self, attempt_id: str, node_id: str, owner_id: int, end: End) -> Ended:
        """Close the attempt and move its task on. Raises StaleAttemptError when it is not current."""
        now = self.clock()
        ended = self.database.write(
            lambda connection: end_in_sql(
                connection, attempt_id, node_id, owner_id, end, settings=self.settings, now=now
            ),
            sharing=ledger_store.TOGETHER,
        )
        self._after_end(attempt_id, ended, end)
        if ended.changed:
            self._tell_monitor(attempt_id, ended, end, now)
        return ended

    def _tell_monitor(self, attempt_id: str, ended: Ended, end: End, now: float) -> None:
        if self.monitor is None:
            return
        task, started = ended.task, ended.task.started_at
        seen = max(0.0, now - started) if started else 0.0
        word = EndedWord(
            attempt=attempt_id,
            task=ids.shown_task(task.id),
            node=ended.node_id,
            outcome=end.outcome,
            reason=end.reason.code,
            exit_code=end.exit_code,
            seconds=seen if end.run_seconds is None else end.run_seconds,
        )
        with suppress(UnavailableError):  # it is a window and no record
            self.monitor.ended(word)

    def _after_end(self, attempt_id: str, ended: Ended, end: End) -> None:
        try:
            self._keep_lost_output(attempt_id, ended, end)
            if ended.node_changed:
                # Before there is room: a node that is on probation from now on must not get two tasks.
                self._put(self.database.read(lambda c: node_store.find(c, ended.node_id)))
            self.registry.release(ended.node_id, attempt_id)
            self.outputs.end(attempt_id)
            self.outputs.announce(ended.task.id)
            if ended.changed and ended.state is TaskState.QUEUED and not ended.wait_until:
                self.publisher.place(ended.task.id, ended.task.tier, ended.task.region)
            self.registry.announce(ended.node_id)
            if ended.follow_up is not None:
                self.publish_follow_up(ended.follow_up)
            if ended.changed:
                self._charge(ended)
                self.go_on_after(ids.shown_task(ended.task.id))
            for owner_id in ended.tiers_changed:
                self.sync_nodes_of(owner_id)
        except UnavailableError as error:
            log.warning("the end of %s is kept; the sweep tells the rest: %s", attempt_id, error)

    def _keep_lost_output(self, attempt_id: str, ended: Ended, end: End) -> None:
        """Of the last attempt of a task; where another follows, that one's is the task's."""
        task, is_last = ended.task, ended.changed and ended.state in FINAL_TASK_STATES
        if not (self.files and is_last and end.outcome is Outcome.LOST and task.kind is TaskKind.USER):
            return
        keep_lost_output(
            self.database,
            self.files(),
            self.outputs,
            task_id=task.id,
            attempt_number=task.attempt_number,
            attempt_id=attempt_id,
            reason=end.reason,
        )

    def publish_follow_up(self, follow: FollowUp) -> None:
        """What follows for a task with several runs, to those whom it concerns. Raises UnavailableError."""
        for run in follow.added:
            self.publisher.place(run.task_id, run.tier, run.region)
        for node_id, attempt_id in follow.stopped:
            self.registry.mark_stop(node_id, attempt_id)
        self.outputs.announce(follow.task_id)
        for owner_id in follow.tiers_changed:
            self.sync_nodes_of(owner_id)
        for node_id in follow.paused:
            self._put(self.database.read(lambda c: node_store.find(c, node_id)))  # noqa: B023

    def go_on_after(self, task_id: str) -> None:
        """What waits for this task, which may have ended. Raises UnavailableError: then the sweep does it."""
        self.tell_dependents(dependents.after_task(self.settling, task_id))

    @property
    def settling(self) -> Settling:
        return Settling(self.database, self.clock, self.settings.max_flow_inputs_mb << 20)

    def tell_dependents(self, settled: Settled) -> None:
        """Raises UnavailableError."""
        for hint in settled.released:
            self.publisher.place(hint.id, hint.tier, hint.region)
        for task_id in (*settled.stopped, *(hint.id for hint in settled.released)):
            self.outputs.announce(task_id)

    def lose_attempt(
        self, attempt_id: str, node_id: str, owner_id: int, reason: Reason, *, blameless: bool = False
    ) -> Ended:
        end = End(outcome=Outcome.LOST, exit_code=None, reason=reason, blameless=blameless)
        return self.end_attempt(attempt_id, node_id, owner_id, end)

    def _charge(self, ended: Ended) -> None:
        """What was charged when the task was placed was a guess."""
        started, now = ended.task.started_at, self.clock()
        minutes = max(0.0, now - started) / _SECONDS_PER_MINUTE if started else 0.0
        units = cost_per_minute(ended.claim) * (minutes - EXPECTED_MINUTES)
        self.usage.add({ended.task.owner_id: units}, now)

    def sync_node(self, node_id: str) -> None:
        """Write what Redis should know of the node, from SQL as it is now."""
        # Before SQL is read: what is reserved meanwhile is not taken for something that SQL does not know.
        listed = self.registry.assigned(node_id)
        node, live, ended = self.database.read(
            lambda connection: (
                node_store.find(connection, node_id),
                task_store.live_attempts(connection, node_id),
                task_store.ended_among(connection, listed),
            )
        )
        self._put(node)
        self.registry.rebuild(
            node_id,
            {it.id: (it.claim, it.created_at, it.stop_requested) for it in live},
            now=self.clock(),
            ended=ended,
        )
        self.registry.announce(node_id)

    def sync_nodes_of(self, owner_id: int) -> None:
        """The owner's credit score opens another tier: for the nodes, and for the tasks that wait.

        What runs goes on. Raises UnavailableError; the sweep does the rest then.
        """
        self.database.write(lambda connection: credit_store.retier(connection, owner_id))
        for node in self.database.read(lambda connection: node_store.active_of(connection, owner_id)):
            self._put(node)
        self.registry.announce_owner(owner_id)

    def facts_of(self, node: StoredNode) -> RegisteredNode:
        """What Redis should know of the node."""
        settings = self.settings
        return node_store.registered_node(
            node,
            settings.overcommit,
            settings.history_rules,
            now=self.clock(),
            claims=settings.claim_rules,
            audited=settings.audit_share > 0,
            most_message_bytes=settings.grpc_max_message_mb << 20,
        )

    def _put(self, node: StoredNode) -> None:
        """The facts alone; a node that has left meanwhile is not brought back."""
        if node.active:
            self.registry.put_node(self.facts_of(node))
