"""What the check of a result says for good: of whom it says something, and what part of the pay is fair.

Functions of a connection; they only read. The rules are in nodepool/domain/trust/audits.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row

from nodepool.domain.money import ledger
from nodepool.domain.tasks.states import Outcome
from nodepool.domain.trust import audits as verification
from nodepool.domain.trust.voting import Count, Finding
from nodepool.stores.sql import owner_relations, provisional_results
from nodepool.stores.sql.owner_relations import Reach
from nodepool.workflows.replica_vote import Deciding


def reach(connection: Connection, task: Row[Any], provider_id: int, deciding: Deciding) -> Reach:
    """Who could check the task that this provider ran."""
    besides = {task.owner_id, provider_id}
    return owner_relations.reach(connection, task, besides, allow_pushed=deciding.allow_pushed)


def that_count(
    connection: Connection,
    task: Row[Any],
    result: Row[Any],
    own: Finding,
    checkers: Sequence[Row[Any]],
    count: Count,
    deciding: Deciding,
) -> dict[int, Finding]:
    """What the comparison says of each owner for good (see verification.that_count)."""
    findings = {run.provider_id: count.findings[run.id] for run in checkers} | {result.owner_id: own}
    could, least = reach(connection, task, result.owner_id, deciding), deciding.rules.least_owners
    return verification.that_count(
        findings,
        owner_relations.related(connection, findings),
        raises=could.raises(least),
        lowers=could.lowers(least),
    )


def fair_share(
    connection: Connection,
    task: Row[Any],
    result: Row[Any],
    told: Mapping[int, Finding],
    checkers: Sequence[Row[Any]],
) -> tuple[int, int]:
    """What part of its pay the node gets: (minutes that are fair, minutes that it took).

    Beside checks that took far less time, it dawdled, in this run as in the others of its block.
    """
    if told[result.owner_id] is not Finding.VERIFIED:
        return (1, 1)
    times = provisional_results.times_of(connection, result.attempt_id)
    own = _minutes(times.started_at, times.finished_at, task)
    agreed = [run for run in checkers if told[run.provider_id] is Finding.VERIFIED]
    others = [_minutes(run.attempt_started_at, run.attempt_finished_at, task) for run in agreed]
    return (verification.fair_minutes(own, others), own) if own and all(others) else (1, 1)


def _minutes(started_at: float | None, finished_at: float | None, task: Row[Any]) -> int:
    ended = finished_at or started_at or 0.0
    return ledger.minutes_to_pay(Outcome.SUCCEEDED, started_at, ended, task.max_minutes)
