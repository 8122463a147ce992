"""The sweep's rules for nodes without an agent, which the pool calls and which do not say what they run.

Hints that were lost are told again, and every attempt ends: sent but never answered, fallen silent,
past its longest run, or told to stop and still there. All of it is derived from SQL and from when
something was last heard of an attempt, so it does not matter which dispatcher called, or whether it lives.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from dispatcher.context import Dispatcher, open_files
from dispatcher.push.outcomes import PushOutcomes, silence_seconds
from nodepool.domain.errors import NodePoolError
from nodepool.domain.tasks.reasons import ReasonCode, because
from nodepool.domain.tasks.states import AttemptState, Outcome
from nodepool.stores.sql import pushed_attempts
from nodepool.stores.sql.attempt_rows import PushedAttempt

log = logging.getLogger(__name__)

_SECONDS_PER_MINUTE = 60
_TELL_AGAIN_SECONDS = 5.0
# After the caller's own patience, for when the caller is gone.
_CALLER_GONE_SECONDS = 10.0
# In times PUSH_TIMEOUT_SECONDS: until a call is given up that nobody made, and a stop that nothing came of.
_NEVER_CALLED_PERIODS = 6
_STOP_PERIODS = 3
# In times NODE_LATE_SECONDS: a worker that says nothing of an attempt is asked, and then it is lost.
_ASK_PERIODS = 2
_SILENT_PERIODS = 4


@dataclass(slots=True)
class _Seen:
    """What this sweep remembers of an attempt; another one begins with full patience."""

    heard_at: float
    told_at: float
    stop_seen_at: float | None = None


class PushedAttempts:
    """For one thread."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._effects: PushOutcomes | None = None
        self._seen: dict[str, _Seen] = {}
        self._back_at = 0.0

    def look(self, back_at: float) -> None:
        """One pass. Nobody can speak or be called during an outage; `back_at` is when the last one ended."""
        rows = self._dispatcher.database.read(pushed_attempts.live)
        if not rows:
            self._seen.clear()
            return
        if self._effects is None:
            self._effects = PushOutcomes(self._dispatcher, open_files(self._dispatcher.settings))
        now, self._back_at = self._dispatcher.clock(), back_at
        ages = self._effects.words.ages([row.id for row in rows])
        seen = {row.id: self._seen.get(row.id) or _Seen(now, row.created_at) for row in rows}
        self._seen = seen
        for row in rows:
            mine = seen[row.id]
            mine.heard_at = max(mine.heard_at, now - ages[row.id], back_at)
            try:
                self._look_at(row, mine, self._effects, now)
            except NodePoolError as error:
                log.warning("attempt %s is looked at again: %s", row.id, error)

    def _look_at(self, row: PushedAttempt, mine: _Seen, effects: PushOutcomes, now: float) -> None:
        if row.stop_requested:
            self._stop(row, mine, effects, now)
        elif row.state == AttemptState.ASSIGNED:
            self._assigned(row, mine, effects, now)
        elif now - (row.started_at or now) > row.max_minutes * _SECONDS_PER_MINUTE:
            # Its worker knows no longest run, so the pool ends it, as an agent would.
            reason = because(ReasonCode.LONGEST_RUN, minutes=row.max_minutes)
            worked = effects.words.showed_work(row.id)
            effects.end(row.id, Outcome.FAILED, reason, at_bound=True, worked=worked)
            self._dispatcher.publisher.push_stop(row.node_id, row.id)
        else:
            self._running(row, mine, effects, now)

    def _stop(self, row: PushedAttempt, mine: _Seen, effects: PushOutcomes, now: float) -> None:
        if mine.stop_seen_at is None:
            mine.stop_seen_at = now
        patience = _STOP_PERIODS * self._dispatcher.settings.push_timeout_seconds
        if not row.pushed_at:
            effects.end(row.id, Outcome.STOPPED, because(ReasonCode.STOPPED_UNSENT))
        elif now - mine.stop_seen_at > patience:
            reason = because(ReasonCode.STOPPED_BY_POOL_AFTER, seconds=patience)
            worked = effects.words.showed_work(row.id)
            effects.end(row.id, Outcome.STOPPED, reason, worked=worked)
        elif self._due(mine, now):
            self._dispatcher.publisher.push_stop(row.node_id, row.id)

    def _assigned(self, row: PushedAttempt, mine: _Seen, effects: PushOutcomes, now: float) -> None:
        settings = self._dispatcher.settings
        if row.pushed_at:
            silent = silence_seconds(settings, row.package_bytes)
            if now - max(row.pushed_at, self._back_at) > silent + _CALLER_GONE_SECONDS:
                effects.end(row.id, Outcome.LOST, because(ReasonCode.CALL_UNANSWERED, node=row.node_id))
                self._dispatcher.publisher.push_stop(row.node_id, row.id)
        elif now - max(row.created_at, self._back_at) > _NEVER_CALLED_PERIODS * settings.push_timeout_seconds:
            effects.end(
                row.id, Outcome.LOST, because(ReasonCode.NEVER_CALLED, node=row.node_id), blameless=True
            )
        elif self._due(mine, now):
            self._dispatcher.publisher.push(row.node_id, row.id)

    def _running(self, row: PushedAttempt, mine: _Seen, effects: PushOutcomes, now: float) -> None:
        late = self._dispatcher.settings.node_late_seconds
        silent = now - max(mine.heard_at, row.started_at or now)
        if silent > _SILENT_PERIODS * late:
            reason = because(ReasonCode.SILENT, node=row.node_id, seconds=silent)
            effects.end(row.id, Outcome.LOST, reason)
            self._dispatcher.publisher.push_stop(row.node_id, row.id)
        elif silent > _ASK_PERIODS * late and self._due(mine, now):
            self._dispatcher.publisher.push_ask(row.node_id, row.id)

    def _due(self, mine: _Seen, now: float) -> bool:
        if now - mine.told_at < _TELL_AGAIN_SECONDS:
            return False
        mine.told_at = now
        return True
