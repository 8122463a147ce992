"""Which metrics an event counts for: so nobody who tells one counts it as well."""

from __future__ import annotations

from nodepool.events.catalogue import (
    EndedAttempt,
    Event,
    LimitHit,
    LoginRefused,
    RefusalCause,
    TaskAccepted,
    TaskEnded,
    TaskPlaced,
)
from nodepool.metrics import catalogue as metrics


def count(event: Event) -> None:
    match event:
        case TaskAccepted(tier=tier):
            metrics.tasks_accepted.labels(tier).inc()
        case TaskPlaced(tier=tier, wait_seconds=seconds):
            metrics.placements.labels(tier).inc()
            metrics.task_wait_seconds.labels(tier).observe(seconds)
        case EndedAttempt(outcome=outcome, reason_class=reason_class):
            metrics.attempts_ended.labels(outcome, reason_class or "none").inc()
        case TaskEnded(outcome=outcome, reason_class=reason_class, state=state):
            if outcome:
                metrics.attempts_ended.labels(outcome, reason_class or "none").inc()
            metrics.tasks_ended.labels(state).inc()
        case LoginRefused(cause=cause):
            metrics.logins.labels("limited" if cause is RefusalCause.LIMITED else "refused").inc()
        case LimitHit(limit=limit):
            metrics.limits_hit.labels(limit).inc()
        case _:
            pass
