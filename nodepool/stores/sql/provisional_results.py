"""Results that are not verified yet, in SQL. The rules are in domain/trust/audits.py.

What is paid for such a result waits in the account `pending`, so that its user's hold ends with the task.
Functions of a connection. All of this is done with the ledger's head locked, one after the other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, literal, or_, select, update

from nodepool.domain import ids
from nodepool.domain.money import ledger
from nodepool.domain.tasks.states import Verification
from nodepool.domain.trust import audits
from nodepool.domain.trust.audits import NodeRecord, OwnerRecord
from nodepool.domain.trust.provisional import NewCheck, ProvisionalResult
from nodepool.stores.sql.tables import (
    attempts,
    holds,
    ledger_accounts,
    ledger_entries,
    node_records,
    owner_records,
    provisional_results,
    tasks,
)

_columns = provisional_results.c
_PAYMENT = literal(ledger.payment_id("")) + _columns.attempt_id
_SELECT = (
    select(
        provisional_results,
        tasks.c.tier,
        tasks.c.region,
        attempts.c.started_at.label("started_at"),
        attempts.c.finished_at.label("ended_at"),
        attempts.c.run_seconds,
        holds.c.account_id.label("payer"),
        ledger_entries.c.amount.label("waiting_pay"),
        node_records.c.verified,
        owner_records.c.strikes,
    )
    .join(tasks, tasks.c.id == _columns.task_id)
    .outerjoin(attempts, attempts.c.id == _columns.attempt_id)
    .outerjoin(holds, holds.c.task_id == _columns.task_id)
    .outerjoin(
        ledger_entries,
        (ledger_entries.c.id == _PAYMENT) & (ledger_entries.c.credit_account == ledger.PENDING),
    )
    .outerjoin(node_records, node_records.c.node_id == _columns.node_id)
    .outerjoin(owner_records, owner_records.c.user_id == _columns.owner_id)
)
_CHECKED = _SELECT.where(_columns.task_id == bindparam("task"), _columns.drawn)
_FEES = select(ledger_accounts.c.balance).where(ledger_accounts.c.id == ledger.FEE)
_RUNS = select(tasks.c.parent_id, tasks.c.id).where(tasks.c.parent_id.in_(bindparam("names", expanding=True)))


def checked(connection: Connection, task_id: str) -> ProvisionalResult | None:
    """The task's result, when it is checked."""
    found = _results(connection, connection.execute(_CHECKED, {"task": task_id}).all())
    return found[0] if found else None


def of_nodes_and_block(
    connection: Connection, node_ids: Collection[str], block: str = ""
) -> tuple[ProvisionalResult, ...]:
    """All of these nodes that wait, and those of the block."""
    query = _SELECT.where(_columns.node_id.in_(sorted(node_ids)))
    if block:
        query = _SELECT.where(or_(_columns.node_id.in_(sorted(node_ids)), _columns.block == block))
    return _results(connection, connection.execute(query).all())


def _results(connection: Connection, rows: Sequence[Row[Any]]) -> tuple[ProvisionalResult, ...]:
    last: dict[str, int] = {}
    if rows:
        for parent, run in connection.execute(_RUNS, {"names": [row.task_id for row in rows]}):
            last[parent] = max(last.get(parent, 0), ids.run_number(run))
    return tuple(_from_row(row, last.get(row.task_id, 0)) for row in rows)


def _from_row(row: Row[Any], runs: int) -> ProvisionalResult:
    node, owner = NodeRecord(verified=row.verified or 0), OwnerRecord(strikes=row.strikes or 0)
    return ProvisionalResult(
        task_id=row.task_id,
        attempt_id=row.attempt_id,
        node_id=row.node_id,
        owner_id=row.owner_id,
        finished_at=row.finished_at,
        block=row.block,
        drawn=row.drawn,
        recalled=row.recalled,
        tier=row.tier,
        region=row.region,
        runs=runs,
        waiting_pay=row.waiting_pay or 0,
        payer=row.payer or "",
        started_at=row.started_at,
        ended_at=row.ended_at,
        run_seconds=row.run_seconds,
        trusted=audits.is_trusted(node, owner),
    )


def keep(connection: Connection, result: ProvisionalResult) -> None:
    """The result of this attempt is provisional, and may be held back from its user."""
    connection.execute(
        insert(provisional_results).values(
            task_id=result.task_id,
            attempt_id=result.attempt_id,
            node_id=result.node_id,
            owner_id=result.owner_id,
            finished_at=result.finished_at,
        )
    )
    pending = update(tasks).where(tasks.c.id == result.task_id)
    connection.execute(
        pending.values(verification=Verification.PENDING, held_back_until=result.held_back_until)
    )


def put_under_check(connection: Connection, check: NewCheck) -> None:
    """The run that checks it is added beside."""
    connection.execute(
        update(provisional_results).where(_columns.task_id.in_(check.block_of)).values(block=check.task_id)
    )
    connection.execute(
        update(provisional_results)
        .where(_columns.task_id == check.task_id)
        .values(block=check.task_id, drawn=True, recalled=check.recalled)
    )


def forget(connection: Connection, task_id: str, verification: str) -> None:
    """The task's result is provisional no longer, and nothing of it is held back."""
    connection.execute(delete(provisional_results).where(_columns.task_id == task_id))
    task = update(tasks).where(tasks.c.id == task_id)
    connection.execute(task.values(verification=verification, held_back_until=0))


def fees(connection: Connection) -> int:
    """What the pool has kept so far."""
    return int(connection.execute(_FEES).scalar_one())


def under_check(connection: Connection, limit: int, *, after: str = "") -> list[str]:
    """Tasks of which a run is checked, a page of them in the order of their ids."""
    query = select(_columns.task_id).where(_columns.drawn, _columns.task_id > after)
    return [str(it) for it in connection.execute(query.order_by(_columns.task_id).limit(limit)).scalars()]


def blocks_since_before(connection: Connection, time: float) -> list[str]:
    """Nodes whose open block began before that."""
    oldest = func.min(_columns.finished_at)
    query = select(_columns.node_id).where(_columns.block == "").group_by(_columns.node_id)
    return [str(it) for it in connection.execute(query.having(oldest < time)).scalars()]
