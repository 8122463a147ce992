"""What comes of calling a node without an agent, in SQL, Redis and files. Knows nothing of the network.

Every effect is guarded by the attempt's state, so a late answer changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO

from dispatcher.context import Dispatcher
from nodepool.domain.ends.attempt_end import End
from nodepool.domain.errors import NodePoolError, StaleAttemptError, StateConflictError, TooLargeError
from nodepool.domain.nodes import message_limits
from nodepool.domain.nodes.generation import NO_WORK_WORDS, Generation
from nodepool.domain.nodes.node import NodeKind
from nodepool.domain.tasks.pool_result import check_result, printable
from nodepool.domain.tasks.reasons import NO_REASON, Reason, ReasonCode, because
from nodepool.domain.tasks.states import AttemptState, Outcome
from nodepool.settings import Settings
from nodepool.stores.files.file_store import FileStore
from nodepool.stores.redis.last_heard import LastHeard
from nodepool.stores.sql import pushed_attempts, tasks as task_store
from nodepool.stores.sql.attempt_rows import PushedAttempt
from nodepool.workflows.end_without_agent import end_with_what_there_is, keep_result
from nodepool.workflows.result_files import forget_losers, wanted, with_digest

log = logging.getLogger(__name__)

# A package may come as slowly as this to a worker before it counts as silent.
_SLOWEST_BYTES_PER_SECOND = 256 << 10


def silence_seconds(settings: Settings, package_bytes: int) -> float:
    """How long a worker may say nothing at all after it was called."""
    return settings.push_timeout_seconds + package_bytes / _SLOWEST_BYTES_PER_SECOND


@dataclass(frozen=True, slots=True)
class WorkerReply:
    """What a worker answered to ExecuteTask."""

    success: bool
    message: str
    result: bytes


class PushOutcomes:
    """Thread-safe."""

    def __init__(self, dispatcher: Dispatcher, files: FileStore) -> None:
        self._dispatcher = dispatcher
        self._files = files
        self.words = LastHeard(dispatcher.redis)

    @property
    def settings(self) -> Settings:
        return self._dispatcher.settings

    def find(self, attempt_id: str) -> PushedAttempt | None:
        return self._dispatcher.database.read(lambda c: pushed_attempts.find(c, attempt_id))

    def pause_seconds(self, attempt_id: str) -> float:
        row = self.find(attempt_id)
        if row is None:
            return 0.0
        now = self._dispatcher.clock()
        return self._dispatcher.database.read(lambda c: pushed_attempts.pause_seconds(c, row, now))

    def take(self, attempt_id: str) -> PushedAttempt | None:
        """The attempt, for the one caller who may send it; None for everybody else, and when it is over."""
        row = self.find(attempt_id)
        if row is None or row.kind != NodeKind.PUSHED or not row.is_live or row.pushed_at:
            return None
        if row.stop_requested:
            self.end(row.id, Outcome.STOPPED, because(ReasonCode.STOPPED_UNSENT))
            return None
        if row.generation is not Generation.OURS:
            # It has registered again since it was chosen.
            words = NO_WORK_WORDS[row.generation]
            reason = because(ReasonCode.NOT_CALLED, node=row.node_id, detail=words)
            self.end(row.id, Outcome.REFUSED, reason, blameless=True)
            return None
        now = self._dispatcher.clock()
        mine = self._dispatcher.database.write(lambda c: pushed_attempts.mark_pushed(c, attempt_id, now))
        return row if mine else None

    def package(self, row: PushedAttempt) -> bytes:
        return self._files.package_bytes(row.package_sha256)

    def answered(self, attempt_id: str, answer: WorkerReply) -> None:
        """The worker answered: it has taken the task, refuses it, or has run it while the call was held."""
        row = self.find(attempt_id)
        if row is None or not row.is_live:
            return
        if answer.result:
            self._answered_with_result(row, answer)
        elif answer.success:
            self._claim(row)
        elif row.state == AttemptState.RUNNING:
            # It had sent messages about the task before: this is how the run ended, and not a refusal.
            words = printable(answer.message) or "it did not say why"
            self.end(row.id, Outcome.FAILED, because(ReasonCode.FAILED_ON_NODE_WITH, detail=words))
        else:
            words = printable(answer.message) or "it did not say why"
            self.end(
                row.id, Outcome.REFUSED, because(ReasonCode.REFUSED_BY_NODE, node=row.node_id, detail=words)
            )

    def _answered_with_result(self, row: PushedAttempt, answer: WorkerReply) -> None:
        try:
            check_result(BytesIO(answer.result), len(answer.result), self.settings.max_result_bytes)
        except TooLargeError:
            self._answered_too_much(row, self.settings.max_result_bytes)
            return
        except NodePoolError as error:
            self.end(
                row.id, Outcome.REFUSED, because(ReasonCode.NO_RESULT, node=row.node_id, detail=str(error))
            )
            return
        if not self._claim(row):
            return
        keep_result(self._files, row.id, answer.result)
        if answer.success:
            self.end(row.id, Outcome.SUCCEEDED, NO_REASON)
        else:
            words = printable(answer.message) or "it did not say why"
            self.end(row.id, Outcome.FAILED, because(ReasonCode.FAILED_ON_NODE_WITH, detail=words))

    def exhausted(self, attempt_id: str, words: str, sent_bytes: int) -> None:
        """The call came back with RESOURCE_EXHAUSTED, in these words, to a message of that size."""
        row = self.find(attempt_id)
        if row is None or not row.is_live:
            return
        own_limit = self.settings.grpc_max_message_mb << 20
        said = message_limits.exhausted(words, sent_bytes=sent_bytes, own_limit_bytes=own_limit)
        if said.answer_too_large:
            self._answered_too_much(row, own_limit)
        elif row.state == AttemptState.RUNNING:
            # It has spoken for the task, so it has it.
            self.end(row.id, Outcome.LOST, because(ReasonCode.CALL_FAILED, node=row.node_id, detail=words))
        elif said.limit_bytes:
            reason = because(
                ReasonCode.MESSAGE_TOO_LARGE,
                node=row.node_id,
                limit_bytes=said.limit_bytes,
                package_bytes=row.package_bytes,
            )
            self.end(row.id, Outcome.REFUSED, reason)
        else:
            detail = f"node {row.node_id} is full: {words}"
            self.end(row.id, Outcome.REFUSED, because(ReasonCode.NODE_BUSY, detail=detail))

    def _answered_too_much(self, row: PushedAttempt, limit_bytes: int) -> None:
        """It has run, and what the task made of it is too much: it would be on any node."""
        if self._claim(row):
            self.end(row.id, Outcome.FAILED, because(ReasonCode.RESULT_TOO_LARGE, limit_bytes=limit_bytes))

    def _claim(self, row: PushedAttempt) -> bool:
        now = self._dispatcher.clock()
        try:
            self._dispatcher.database.write(
                lambda c: task_store.claim_attempt(c, row.id, row.node_id, row.owner_id, now)
            )
        except StaleAttemptError:
            return False
        with suppress(NodePoolError):  # watchers look by themselves, and the sweep asks
            self.words.heard([row.id])
            self._dispatcher.lifecycle.outputs.announce(row.task_id)
        return True

    def end(
        self,
        attempt_id: str,
        outcome: Outcome,
        reason: Reason,
        *,
        blameless: bool = False,
        at_bound: bool = False,
        late: bool = False,
        worked: bool = False,
    ) -> None:
        """End the attempt as it is now, with what its node gave; nothing happens when it is over.

        `late`: its node should have ended it before. `worked`: what it reports of the run shows work. One
        that shows none at its bound was not run at all: the task goes elsewhere.
        """
        # Its owner asked for its end: however the run went, that is what became of it.
        current = self.find(attempt_id)
        if current is None or not current.is_live:
            return
        if current.stop_requested and current.state == AttemptState.RUNNING:
            outcome, reason = (
                Outcome.STOPPED,
                reason if outcome is Outcome.STOPPED else because(ReasonCode.STOPPED),
            )
        if outcome in {Outcome.LOST, Outcome.REFUSED}:
            end = End(outcome=outcome, exit_code=None, reason=reason, blameless=blameless)
        else:
            outputs, now = self._dispatcher.lifecycle.outputs, self._dispatcher.clock()
            end = end_with_what_there_is(
                self._files, outputs, current, outcome, reason, now, at_bound=at_bound, worked=worked
            )
            end = _seen_through(self._files, current, replace(end, late=late or (end.idle and at_bound)))
            if self._is_compared(current, end):
                # Its result may take long to read, and nobody here waits for it.
                later = self._dispatcher.deferred_ends
                later.do(current.owner_id, current.id, partial(self._end_with_digest, current, end))
                return
        self._end(current, end)

    def _is_compared(self, row: PushedAttempt, end: End) -> bool:
        database, most = self._dispatcher.database, self.settings.max_workdir_bytes
        return bool(wanted(database, self._files, row.id, end, max_bytes=most))

    def _end_with_digest(self, row: PushedAttempt, end: End) -> None:
        database, most = self._dispatcher.database, self.settings.max_workdir_bytes
        make = partial(self._dispatcher.deferred_ends.digest, row.owner_id)
        self._end(row, with_digest(database, self._files, row.id, end, max_bytes=most, make=make))

    def _end(self, row: PushedAttempt, end: End) -> None:
        try:
            self._dispatcher.lifecycle.end_attempt(row.id, row.node_id, row.owner_id, end)
            forget_losers(self._dispatcher.database, self._files, row.id)
        except (StaleAttemptError, StateConflictError) as error:
            log.info("attempt %s had ended: %s", row.id, error)

    def stop_target(self, attempt_id: str) -> PushedAttempt | None:
        """The attempt whose run is to be ended on its node, also when the pool has ended it already.

        None when a later attempt of the task is on that node: the worker knows tasks, not attempts.
        """
        row = self.find(attempt_id)
        if row is None or row.kind != NodeKind.PUSHED or not row.pushed_at:
            return None
        if row.attempt_number != row.number and row.task_node == row.node_id:
            return None
        if row.is_live and not row.stop_requested:
            return None
        return row

    def ask_target(self, attempt_id: str) -> PushedAttempt | None:
        row = self.find(attempt_id)
        if row is None or row.kind != NodeKind.PUSHED or not row.is_live:
            return None
        return row

    def states(self, attempt_ids: Sequence[str]) -> dict[str, str]:
        """Of those that are still live."""
        rows = self._dispatcher.database.read(lambda c: pushed_attempts.live(c, attempt_ids))
        return {row.id: row.state for row in rows if row.is_live}


def _seen_through(files: FileStore, row: PushedAttempt, end: End) -> End:
    """A run that nobody worked at until its bound is no run."""
    if not (end.idle and end.outcome is Outcome.FAILED):
        return end
    files.delete_result(row.id)
    reason = because(ReasonCode.IDLE, node=row.node_id, minutes=row.max_minutes)
    return End(outcome=Outcome.LOST, exit_code=None, reason=reason, idle=True, late=True)
