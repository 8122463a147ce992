"""Moving CPT in SQL: entries, balances and the head of the chain, always together.

Functions of a connection: the use case that calls them owns the transaction, and what they raise must
undo it. Whoever moves CPT locks the ledger's head first, so that the chain has one end and balances
do not change under a movement. Rows of tasks and attempts are locked before the head, rows of users
after it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Row,
    Update,
    bindparam,
    case,
    func,
    insert,
    literal,
    select,
    text,
    update,
)

from nodepool.domain.errors import NotEnoughCptError, NotFoundError, StateConflictError
from nodepool.domain.money import ledger
from nodepool.domain.money.ledger import AccountKind, EntryKind, NewEntry, Posted
from nodepool.stores.sql.tables import holds, ledger_accounts, ledger_entries, ledger_head

_HEAD_ID = 1
# Where a transaction has what its writes share (see `together`).
SHARED_HEAD = "hivemind ledger"
# Databases have a limit on the values of one statement.
_AT_ONCE = 1000
# SQLite has one writer anyway, and leaves the lock out.
_LOCK_HEAD = (
    select(ledger_head.c.seq, ledger_head.c.hash).where(ledger_head.c.id == _HEAD_ID).with_for_update()
)
_MOVE_HEAD = (
    update(ledger_head)
    .where(ledger_head.c.id == _HEAD_ID, ledger_head.c.seq == bindparam("before"))
    .values(seq=bindparam("after"), hash=bindparam("new_hash"))
)
_INSERT_ENTRY = insert(ledger_entries)
_INSERT_ACCOUNT = insert(ledger_accounts)
_BY_IDS = select(ledger_entries).where(ledger_entries.c.id.in_(bindparam("ids", expanding=True)))
_HELD = (
    select(func.coalesce(func.sum(holds.c.amount - holds.c.posted), 0))
    # As the index of these rows has it: a value that is bound would be looked for anew each time.
    .where(holds.c.account_id == ledger_accounts.c.id, text("holds.state = 'held'"))
    .scalar_subquery()
)
_BALANCE = select(ledger_accounts.c.balance, _HELD.label("held")).where(
    ledger_accounts.c.id == bindparam("account")
)


@dataclass(frozen=True, slots=True)
class Head:
    """The newest entry of the chain."""

    seq: int
    hash: str


def open_account(connection: Connection, user_id: int, *, grant: int = 0, now: float) -> None:
    """The user's account, with so many CPT from the mint in it."""
    account = ledger.user_account(user_id)
    connection.execute(
        _INSERT_ACCOUNT, {"id": account, "kind": AccountKind.USER, "user_id": user_id, "balance": 0}
    )
    if grant:
        append(
            connection,
            [
                NewEntry(
                    ledger.opening_id(user_id),
                    EntryKind.GRANT,
                    ledger.MINT,
                    account,
                    grant,
                    memo="a new account",
                )
            ],
            now,
        )


def balance(connection: Connection, user_id: int) -> tuple[int, int]:
    """What the user can spend, and what tasks hold beside it. Raises NotFoundError."""
    row = connection.execute(_BALANCE, {"account": ledger.user_account(user_id)}).one_or_none()
    if row is None:
        raise NotFoundError("you have no account in this pool: register again")
    return int(row.balance), int(row.held)


def balances(connection: Connection, user_ids: Collection[int]) -> dict[int, int]:
    """What each of these users can spend; who has no account is left out."""
    accounts = ledger_accounts.c
    query = select(accounts.user_id, accounts.balance)
    found: dict[int, int] = {}
    every = sorted(user_ids)
    for start in range(0, len(every), _AT_ONCE):
        rows = connection.execute(query.where(accounts.user_id.in_(every[start : start + _AT_ONCE])))
        found |= {row.user_id: row.balance for row in rows}
    return found


def move(connection: Connection, entries: Sequence[NewEntry], now: float) -> list[NewEntry]:
    """Make these movements, all or none; those that were new are returned.

    One whose id is there already, with the same accounts and amount, was made before and is passed
    over; with others it is a ConflictError. NotEnoughCptError when an account is not covered.
    """
    for entry in entries:
        ledger.check_entry(entry)
    wanted = {entry.id: entry for entry in entries}
    if len(wanted) != len(entries):
        raise StateConflictError("one request names the same movement twice")
    if not wanted:
        return []
    head = _head(connection)
    known = connection.execute(_BY_IDS, {"ids": list(wanted)}).all()
    for row in known:
        _check_same(row, wanted.pop(row.id))
    new = list(wanted.values())
    if new:
        _append(connection, head, new, now)
    return new


def lock(connection: Connection) -> None:
    """Nobody else moves CPT, or does what is done under the same lock, until the transaction ends."""
    _head(connection)


def append(connection: Connection, entries: Sequence[NewEntry], now: float) -> None:
    """The same for movements that the caller knows to be new; an id that is there is an IntegrityError."""
    for entry in entries:
        ledger.check_entry(entry)
    _append(connection, _head(connection), entries, now)


def _check_same(row: Row[Any], entry: NewEntry) -> None:
    there = (row.kind, row.debit_account, row.credit_account, row.amount)
    if there != (entry.kind, entry.debit, entry.credit, entry.amount):
        raise StateConflictError(
            f"there is another movement {entry.id[:100]!r} already, of {row.amount} CPT; nothing was moved"
        )


def _head(connection: Connection) -> Head:
    """Locked, by this or by what shares its transaction."""
    shared = connection.info.get(SHARED_HEAD)
    return lock_head(connection) if shared is None else shared.head


def lock_head(connection: Connection) -> Head:
    row = connection.execute(_LOCK_HEAD).one()
    return Head(row.seq, row.hash)


def _append(connection: Connection, head: Head, entries: Sequence[NewEntry], now: float) -> None:
    shared = connection.info.get(SHARED_HEAD)
    if shared is not None and shared.collects:
        shared.append(entries, now)
        return
    rows, after = posted(head, entries, _change_balances(connection, entries), now)
    connection.execute(_INSERT_ENTRY, rows if len(rows) > 1 else rows[0])
    move_head(connection, head.seq, after)
    if shared is not None:
        shared.head = after


def posted(
    head: Head, entries: Sequence[NewEntry], running: dict[str, int], now: float
) -> tuple[list[dict[str, Any]], Head]:
    """The rows of these entries, and the head after them. `running`: balances, which it changes. Raises
    NotEnoughCptError."""
    rows, before = [], head.hash
    for seq, entry in enumerate(entries, head.seq + 1):
        running[entry.debit] -= entry.amount
        if running[entry.debit] < ledger.lowest_balance(entry.debit):
            raise _not_covered(entry.debit)
        running[entry.credit] += entry.amount
        new = Posted(seq, entry, running[entry.debit], running[entry.credit], float(now))
        before = ledger.entry_hash(before, new)
        rows.append(_row(new, before))
    return rows, Head(head.seq + len(rows), before)


def move_head(connection: Connection, before_seq: int, after: Head) -> None:
    """Raises StateConflictError where the newest entry is not that one."""
    moved = connection.execute(_MOVE_HEAD, {"before": before_seq, "after": after.seq, "new_hash": after.hash})
    if moved.rowcount != 1:
        raise StateConflictError("the ledger changed at the same moment; try again")


def _row(posted: Posted, own_hash: str) -> dict[str, Any]:
    entry = posted.entry
    return {
        "seq": posted.seq,
        "id": entry.id,
        "kind": entry.kind,
        "debit_account": entry.debit,
        "credit_account": entry.credit,
        "amount": entry.amount,
        "debit_balance": posted.debit_balance,
        "credit_balance": posted.credit_balance,
        "task_id": entry.task_id,
        "memo": entry.memo,
        "created_at": posted.created_at,
        "hash": own_hash,
    }


def _change_balances(connection: Connection, entries: Sequence[NewEntry]) -> dict[str, int]:
    """One guarded update of all accounts that the entries touch; their balances from before it."""
    changes: dict[str, int] = {}
    for entry in entries:
        changes[entry.debit] = changes.get(entry.debit, 0) - entry.amount
        changes[entry.credit] = changes.get(entry.credit, 0) + entry.amount
    names = list(changes)
    values: dict[str, Any] = {}
    for index, name in enumerate(names):
        values[f"account{index}"] = name
        values[f"change{index}"] = changes[name]
    after = {row.id: row.balance for row in connection.execute(_changing(len(names)), values)}
    for name in names:
        if name not in after:
            raise _not_covered_or_missing(connection, name)
    return {name: after[name] - changes[name] for name in names}


@lru_cache(maxsize=32)
def _changing(count: int) -> Update:
    """Made once for each number of accounts: building a statement costs more than running it."""
    columns = ledger_accounts.c
    ids = [bindparam(f"account{index}", type_=columns.id.type) for index in range(count)]
    change = case(
        *(
            (columns.id == ids[index], bindparam(f"change{index}", type_=BigInteger))
            for index in range(count)
        ),
        else_=literal(0, BigInteger),
    )
    lowest = case(
        (columns.kind == AccountKind.MINT.value, literal(-ledger.MAX_CPT, BigInteger)),
        else_=literal(0, BigInteger),
    )
    return (
        update(ledger_accounts)
        .where(columns.id.in_(ids), columns.balance + change >= lowest)
        .values(balance=columns.balance + change)
        .returning(columns.id, columns.balance)
    )


def _not_covered_or_missing(connection: Connection, account: str) -> Exception:
    query = select(ledger_accounts.c.balance).where(ledger_accounts.c.id == account)
    if connection.execute(query).one_or_none() is None:
        return NotFoundError("there is no such account; nothing was moved")
    return _not_covered(account)


def _not_covered(account: str) -> NotEnoughCptError:
    if account == ledger.MINT:
        return NotEnoughCptError(
            f"there cannot be more than {ledger.MAX_CPT} CPT in this pool; nothing was moved"
        )
    return NotEnoughCptError("there is not enough CPT in the account; nothing was moved")
