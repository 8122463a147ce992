"""What moved on an account, as its owner sees it, and counter-entries for what was wrong.

Functions of a connection: the use case that calls them owns the transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, literal, select, union_all

from nodepool.domain.errors import NotFoundError, StateConflictError
from nodepool.domain.money import ledger
from nodepool.domain.money.ledger import EntryKind, NewEntry
from nodepool.stores.sql.ledger.postings import move
from nodepool.stores.sql.tables import holds, ledger_accounts, ledger_entries, users

_REVERSIBLE = frozenset({EntryKind.PAYMENT, EntryKind.AWARD, EntryKind.TRANSFER, EntryKind.GRANT})
_MOST_LINES = 500


@dataclass(frozen=True, slots=True)
class AccountMovement:
    """One movement. `amount` is negative where it went out; `counterparty` is a user's name or an account."""

    seq: int
    entry_id: str
    kind: str
    amount: int
    balance_after: int
    counterparty: str
    task_id: str
    memo: str
    at: float


@dataclass(frozen=True, slots=True)
class AccountStatement:
    """Newest first; `next_before_seq` is where the next page begins, 0 where there is none."""

    lines: tuple[AccountMovement, ...]
    next_before_seq: int


def statement(
    connection: Connection, user_id: int, *, task_id: str = "", before_seq: int = 0, limit: int = 50
) -> AccountStatement:
    """A page of what moved on the user's account, or of what belongs to this task."""
    account, limit = ledger.user_account(user_id), max(1, min(limit, _MOST_LINES))
    # Either side has an index of its own: each gives a page, and the newer half of both is the answer.
    sides = [
        _side(account, task_id, before_seq, limit + 1, incoming=True),
        _side(account, task_id, before_seq, limit + 1, incoming=False),
    ]
    both = union_all(*(select(side.subquery()) for side in sides)).subquery()
    query = (
        select(both, users.c.username)
        .outerjoin(ledger_accounts, ledger_accounts.c.id == both.c.other)
        .outerjoin(users, users.c.id == ledger_accounts.c.user_id)
        .order_by(both.c.seq.desc())
        .limit(limit + 1)
    )
    rows = connection.execute(query).all()
    page = rows[:limit]
    more = len(rows) > limit
    return AccountStatement(tuple(_line(row) for row in page), page[-1].seq if more else 0)


def _side(account: str, task_id: str, before_seq: int, limit: int, *, incoming: bool) -> Select[Any]:
    columns = ledger_entries.c
    mine = columns.credit_account if incoming else columns.debit_account
    query = select(
        columns.seq,
        columns.id,
        columns.kind,
        columns.amount,
        columns.task_id,
        columns.memo,
        columns.created_at,
        (columns.credit_balance if incoming else columns.debit_balance).label("balance_after"),
        (columns.debit_account if incoming else columns.credit_account).label("other"),
        literal(1 if incoming else -1).label("sign"),
    )
    if task_id:
        # No column of the account's index is named: a task has few entries, an account may have a million.
        query = query.where(columns.task_id == task_id, mine.concat("") == account)
    else:
        query = query.where(mine == account)
    if before_seq > 0:
        query = query.where(columns.seq < before_seq)
    return query.order_by(columns.seq.desc()).limit(limit)


def _line(row: Row[Any]) -> AccountMovement:
    return AccountMovement(
        seq=row.seq,
        entry_id=row.id,
        kind=row.kind,
        amount=row.sign * row.amount,
        balance_after=row.balance_after,
        counterparty=row.username or row.other,
        task_id=row.task_id,
        memo=row.memo,
        at=row.created_at,
    )


def entry_exists(connection: Connection, entry_id: str) -> bool:
    query = select(ledger_entries.c.seq).where(ledger_entries.c.id == entry_id)
    return connection.execute(query).first() is not None


def first_hash(connection: Connection) -> str:
    """Of the ledger's first entry, which no two pools share; empty before there is one."""
    query = select(ledger_entries.c.hash).where(ledger_entries.c.seq == 1)
    return str(connection.execute(query).scalar() or "")


def _entry(connection: Connection, entry_id: str) -> Row[Any]:
    """Raises NotFoundError."""
    row = connection.execute(select(ledger_entries).where(ledger_entries.c.id == entry_id)).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no movement {entry_id[:100]!r} in the ledger")
    return row


def reverse(connection: Connection, entry_id: str, now: float, *, memo: str = "") -> Sequence[NewEntry]:
    """Counter-entries for a payment (with the pool's fee of it), a transfer or a grant; told again, nothing.

    A payment goes back to who held it, and not into the escrow. Raises NotEnoughCptError where who got
    the CPT has not got them any more.
    """
    row = _entry(connection, entry_id)
    if row.kind not in _REVERSIBLE:
        raise StateConflictError(
            f"{entry_id[:100]!r} is a {row.kind}; payments, awards, transfers and grants can be reversed"
        )
    if row.credit_account == ledger.PENDING:
        raise StateConflictError(
            "what was paid for this task waits until its result is verified; reverse the award that follows"
        )
    rows = [row]
    back_to = _payer(connection, row.task_id) if row.debit_account == ledger.PENDING else row.debit_account
    if row.kind == EntryKind.PAYMENT:
        back_to = _payer(connection, row.task_id)
        fee = select(ledger_entries).where(
            ledger_entries.c.id == ledger.fee_id(entry_id.removeprefix(ledger.payment_id("")))
        )
        rows += connection.execute(fee).all()
    entries = [
        NewEntry(
            ledger.reversal_id(it.id),
            EntryKind.REVERSAL,
            it.credit_account,
            back_to,
            it.amount,
            it.task_id,
            memo[: ledger.MAX_MEMO_LENGTH],
        )
        for it in rows
        # Who paid their own account is owed nothing.
        if it.credit_account != back_to
    ]
    return move(connection, entries, now)


def _payer(connection: Connection, task_id: str) -> str:
    return str(connection.execute(select(holds.c.account_id).where(holds.c.task_id == task_id)).scalar_one())
