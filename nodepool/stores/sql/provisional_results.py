"""Results that are not verified yet, and what was paid for them. The rules are in domain/trust/audits.py.

What is paid for such a result waits in the account `pending`, so that its user's hold ends with the task.
Functions of a connection. All of this is done with the ledger's head locked, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, delete, func, insert, select, update

from nodepool.domain import ids
from nodepool.domain.money import ledger
from nodepool.domain.money.ledger import EntryKind, NewEntry
from nodepool.domain.tasks.states import Verification
from nodepool.stores.sql import replicas as replica_store
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.tables import (
    attempts,
    holds,
    ledger_accounts,
    ledger_entries,
    provisional_results,
    tasks,
)

_columns = provisional_results.c
_OF_TASK = select(provisional_results).where(_columns.task_id == bindparam("task"))
_OPEN = (
    select(provisional_results)
    .where(_columns.node_id == bindparam("node"), _columns.block == "")
    .order_by(_columns.finished_at, _columns.task_id)
)
_WAITING_PAY = select(ledger_entries.c.amount).where(
    ledger_entries.c.id == bindparam("entry"), ledger_entries.c.credit_account == ledger.PENDING
)
_TIMES: Select[Any] = select(attempts.c.started_at, attempts.c.finished_at).where(
    attempts.c.id == bindparam("attempt")
)
_FEES = select(ledger_accounts.c.balance).where(ledger_accounts.c.id == ledger.FEE)
_PAYER = select(holds.c.account_id).where(holds.c.task_id == bindparam("task"))


# -- rows ---------------------------------------------------------------------------------------------
def keep(
    connection: Connection, *, task_id: str, attempt_id: str, node_id: str, owner_id: int, now: float
) -> None:
    """The result of this attempt is provisional."""
    connection.execute(
        insert(provisional_results).values(
            task_id=task_id, attempt_id=attempt_id, node_id=node_id, owner_id=owner_id, finished_at=now
        )
    )
    connection.execute(update(tasks).where(tasks.c.id == task_id).values(verification=Verification.PENDING))


def find(connection: Connection, task_id: str) -> Row[Any] | None:
    row: Row[Any] | None = connection.execute(_OF_TASK, {"task": task_id}).one_or_none()
    return row


def open_of(connection: Connection, node_id: str) -> Sequence[Row[Any]]:
    """The node's open block, oldest first."""
    rows: Sequence[Row[Any]] = connection.execute(_OPEN, {"node": node_id}).all()
    return rows


def of_block(connection: Connection, block: str) -> Sequence[Row[Any]]:
    rows: Sequence[Row[Any]] = connection.execute(
        select(provisional_results).where(_columns.block == block)
    ).all()
    return rows


def of_node(connection: Connection, node_id: str) -> Sequence[Row[Any]]:
    rows: Sequence[Row[Any]] = connection.execute(
        select(provisional_results).where(_columns.node_id == node_id)
    ).all()
    return rows


def put_under_check(
    connection: Connection, task_id: str, block_of: Sequence[str], now: float, *, recalled: str = ""
) -> Row[Any]:
    """Add a run that checks the task; `block_of` are the tasks whose results stand and fall with it.

    The task is returned, and the run is its newest.
    """
    parent = connection.execute(select(tasks).where(tasks.c.id == task_id)).one()
    runs = replica_store.runs_of(connection, task_id)
    number = max((ids.run_number(run.id) for run in runs), default=0) + 1
    replica_store.add_runs(connection, parent._mapping, [number], now)
    connection.execute(
        update(provisional_results).where(_columns.task_id.in_(block_of)).values(block=task_id)
    )
    connection.execute(
        update(provisional_results)
        .where(_columns.task_id == task_id)
        .values(block=task_id, drawn=True, recalled=recalled)
    )
    return parent


def forget(connection: Connection, task_id: str, verification: str) -> None:
    """The task's result is provisional no longer."""
    connection.execute(delete(provisional_results).where(_columns.task_id == task_id))
    connection.execute(update(tasks).where(tasks.c.id == task_id).values(verification=verification))


def under_check(connection: Connection, limit: int, *, after: str = "") -> list[str]:
    """Tasks of which a run is checked, a page of them in the order of their ids."""
    query = select(_columns.task_id).where(_columns.drawn, _columns.task_id > after)
    return [str(it) for it in connection.execute(query.order_by(_columns.task_id).limit(limit)).scalars()]


def blocks_since_before(connection: Connection, time: float) -> list[str]:
    """Nodes whose open block began before that."""
    oldest = func.min(_columns.finished_at)
    query = select(_columns.node_id).where(_columns.block == "").group_by(_columns.node_id)
    return [str(it) for it in connection.execute(query.having(oldest < time)).scalars()]


# -- money --------------------------------------------------------------------------------------------
def pending(connection: Connection, attempt_id: str) -> int:
    """What was paid for this attempt's result and has nobody yet."""
    entry = ledger.payment_id(attempt_id)
    return int(connection.execute(_WAITING_PAY, {"entry": entry}).scalar() or 0)


def times_of(connection: Connection, attempt_id: str) -> Row[Any]:
    """When the attempt began and ended."""
    row: Row[Any] = connection.execute(_TIMES, {"attempt": attempt_id}).one()
    return row


def award(connection: Connection, result: Row[Any], now: float, *, pay: tuple[int, int] = (1, 1)) -> None:
    """The node's owner gets what was paid for the result, or that part of it; the rest goes back."""
    amount = pending(connection, result.attempt_id)
    due = amount * pay[0] // pay[1]
    if due:
        _award(connection, result.attempt_id, ledger.PENDING, result.owner_id, due, result.task_id, now)
    _refund(connection, result.task_id, amount - due, "it took far longer than elsewhere", now)


def _refund(connection: Connection, task_id: str, amount: int, memo: str, now: float) -> None:
    payer = connection.execute(_PAYER, {"task": task_id}).scalar()
    if amount and payer is not None:
        refund = ledger.refund_id(task_id)
        entry = NewEntry(refund, EntryKind.REFUND, ledger.PENDING, payer, amount, task_id, memo)
        ledger_store.move(connection, [entry], now)


def pay_runs(
    connection: Connection, task_id: str, runs: Sequence[tuple[str, int, int]], funds: int, now: float
) -> None:
    """Runs that the pool ordered, as (attempt, its node's owner, amount).

    Out of `funds`, which the task's user paid for a result that was none, and what is missing out of the
    pool's fees, or the mint where those do not cover it. What is left goes back to the user.
    """
    for attempt_id, owner_id, amount in runs:
        from_user = min(funds, amount)
        if from_user:
            _award(connection, attempt_id, ledger.PENDING, owner_id, from_user, task_id, now)
            funds -= from_user
        if missing := amount - from_user:
            fees = int(connection.execute(_FEES).scalar_one())
            source = ledger.FEE if fees >= missing else ledger.MINT
            _award(connection, attempt_id, source, owner_id, missing, task_id, now, memo="audit")
    _refund(connection, task_id, funds, "its first result was false", now)


def _award(
    connection: Connection, attempt_id: str, source: str, owner_id: int, amount: int, task_id: str,
    now: float, *, memo: str = "verified",
) -> None:  # fmt: skip
    account = ledger.user_account(owner_id)
    entry = NewEntry(
        ledger.award_id(attempt_id, source), EntryKind.AWARD, source, account, amount, task_id, memo
    )
    ledger_store.move(connection, [entry], now)
