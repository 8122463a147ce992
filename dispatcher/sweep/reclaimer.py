"""Allocations in the sweep: measured use goes in, changed reservations and evictions come out.

The rules are in `domain.scheduling.reclaim`; Redis judges every change. What is remembered of each run's use
is this dispatcher's alone: after a restart nothing is taken from a run before it was watched again, and
what a run needs is given to it at once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dispatcher.context import Dispatcher
from dispatcher.sweep.reconciler import Live
from nodepool.domain.ends.attempt_end import End
from nodepool.domain.errors import StaleAttemptError
from nodepool.domain.nodes.node import NodeView
from nodepool.domain.resources import Claim
from nodepool.domain.scheduling import reclaim
from nodepool.domain.scheduling.reclaim import ReclaimPlan, RunView, UsageWindow
from nodepool.domain.tasks.reasons import ReasonCode, because
from nodepool.domain.tasks.states import Outcome
from nodepool.stores.redis.node_registry import NodeReport, RegistryAnswer
from nodepool.stores.sql.attempt_rows import LiveAttempt

log = logging.getLogger(__name__)

_CHANGED_AT_ONCE = 500
# After pressure nothing is taken from the node's runs for this long, or it would be back at once.
_CALM_SECONDS = 60.0
# Two reports are not written within so short a time.
_SAME_REPORT_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class _NodeChange:
    """A node on which something is to change."""

    node_id: str
    rows: Mapping[str, LiveAttempt]
    runs: Sequence[RunView]
    listed: Mapping[str, Claim]
    restore: bool


class Reclaimer:
    """For one thread. Raises UnavailableError when SQL or Redis cannot be reached."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._watches: dict[str, UsageWindow] = {}
        self._reported_at: dict[str, float] = {}
        self._calm_until: dict[str, float] = {}

    def adjust(self, live: Live, reports: Mapping[str, NodeReport | None]) -> None:
        """One pass over the nodes whose reports these are. `live` has all live attempts."""
        registry = self._dispatcher.registry
        self._forget(live)
        news = {
            node_id: report
            for node_id, report in reports.items()
            if report is not None and live.get(node_id) and self._is_news(node_id, report)
        }
        looks = []
        for node_id, listed in registry.allocations(news).items():
            if look := self._look(node_id, live[node_id], news[node_id], listed):
                looks.append(look)
        late_seconds = self._dispatcher.settings.node_late_seconds
        views = registry.views([look.node_id for look in looks], late_seconds)
        plans = [
            (look, made)
            for look, view in zip(looks, views, strict=True)
            if view is not None and (made := self._plan(look, view)).allocations
        ]
        for start in range(0, len(plans), _CHANGED_AT_ONCE):
            self._change(plans[start : start + _CHANGED_AT_ONCE])

    def _forget(self, live: Live) -> None:
        ids = {row.id for rows in live.values() for row in rows}
        self._watches = {name: watch for name, watch in self._watches.items() if name in ids}
        self._reported_at = {name: at for name, at in self._reported_at.items() if live.get(name)}
        now = self._dispatcher.clock()
        self._calm_until = {name: until for name, until in self._calm_until.items() if until > now}

    def _is_news(self, node_id: str, report: NodeReport) -> bool:
        """What was done for a report shows in the next one."""
        if report.age_seconds > self._dispatcher.settings.node_late_seconds:
            return False
        at = self._dispatcher.clock() - report.age_seconds
        news = at - self._reported_at.get(node_id, float("-inf")) > _SAME_REPORT_SECONDS
        if news:
            self._reported_at[node_id] = at
        return news

    def _look(
        self, node_id: str, rows: Sequence[LiveAttempt], report: NodeReport, listed: Mapping[str, Claim]
    ) -> _NodeChange | None:
        settings, now = self._dispatcher.settings, self._dispatcher.clock()
        self._note(rows, report, now)
        by_id = {row.id: row for row in rows if row.id in listed}
        calm = now < self._calm_until.get(node_id, 0.0) or not settings.reclaim_after_seconds
        runs = [self._view(row, listed[row.id], now, calm=calm) for row in by_id.values()]
        restore = report.memory_percent > settings.pressure_memory_percent and any(
            reclaim.is_reclaimed(run) for run in runs
        )
        if restore:
            self._calm_until[node_id] = now + max(_CALM_SECONDS, settings.reclaim_after_seconds)
        if reclaim.is_settled(runs, margin=settings.reclaim_margin, restore=restore):
            return None
        return _NodeChange(node_id, by_id, runs, listed, restore)

    def _note(self, rows: Sequence[LiveAttempt], report: NodeReport, now: float) -> None:
        """Only what the node says of its own attempts."""
        for row in rows:
            if (use := report.uses.get(row.id)) is not None:
                self._watches.setdefault(row.id, UsageWindow(now)).note(use, now)

    def _view(self, row: LiveAttempt, kept: Claim, now: float, *, calm: bool) -> RunView:
        watch = self._watches.get(row.id)
        # An attempt before this one ended without anybody's fault: it was evicted. This one keeps all
        # that it asked for, so that the task does not go from eviction to eviction by its own growth.
        evicted_before = row.number - 1 > row.attempts_ended
        peak = None
        if watch is not None and not calm and not evicted_before:
            peak = watch.peak(at=now, after_seconds=self._dispatcher.settings.reclaim_after_seconds)
        return RunView(
            attempt_id=row.id,
            claim=row.claim,
            kept=kept,
            placed_at=row.created_at,
            credit_score=row.task_credit_score,
            last=watch.last if watch else None,
            peak=peak,
        )

    def _plan(self, look: _NodeChange, view: NodeView) -> ReclaimPlan:
        others = [claim for name, claim in look.listed.items() if name not in look.rows]
        capacity = view.capacity
        return reclaim.plan(
            look.runs,
            room=Claim(
                cpu_score=capacity.cpu_score - sum(claim.cpu_score for claim in others),
                memory_mb=capacity.memory_mb - sum(claim.memory_mb for claim in others),
                gpu_score=capacity.gpu_score,
                gpu_memory_gb=capacity.gpu_memory_gb,
                tasks=capacity.tasks,
            ),
            margin=self._dispatcher.settings.reclaim_margin,
            restore=look.restore,
            # A newcomer that is not in SQL yet may be the one to go; the next pass knows it.
            may_evict=not others,
        )

    def _change(self, plans: Sequence[tuple[_NodeChange, ReclaimPlan]]) -> None:
        """A victim's memory is given to the others in the same step, before anybody else can take it."""
        registry = self._dispatcher.registry
        answers = registry.resize_all([(look.node_id, made.allocations) for look, made in plans])
        changed = []
        for (look, made), answer in zip(plans, answers, strict=True):
            if answer is not RegistryAnswer.OK:
                log.debug("allocations on %s stay for now: %s", look.node_id, answer)
                continue
            changed.append(look.node_id)
            if made.victim:
                self._evict(look.rows[made.victim])
        registry.announce(*changed)

    def _evict(self, row: LiveAttempt) -> None:
        reason = because(ReasonCode.EVICTED, node=row.node_id)
        end = End(outcome=Outcome.LOST, exit_code=None, reason=reason, blameless=True)
        try:
            ended = self._dispatcher.lifecycle.end_attempt(row.id, row.node_id, row.owner_id, end)
        except StaleAttemptError:
            return  # it ended by itself at the same moment
        log.warning("attempt %s is %s; its task is %s", row.id, reason, ended.state)
