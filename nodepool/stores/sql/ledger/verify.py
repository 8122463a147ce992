"""Is the ledger right? Everything is worked out again from the entries, in streams of bounded memory.

The chain says that no entry was changed, taken out or put in between; the balances are compared with
the entries, and every hold with its entries and its task (hold_verify).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Row, exists, literal, select, union_all
from sqlalchemy.exc import DatabaseError

from nodepool.domain.money import ledger
from nodepool.domain.money.ledger import AccountKind, NewEntry, Posted
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.ledger import verify_holds
from nodepool.stores.sql.ledger.report import CHUNK_ROWS, MAX_PROBLEMS, LedgerReport, stream
from nodepool.stores.sql.tables import ledger_accounts, ledger_entries, ledger_head, users

_SYSTEM = {ledger.ESCROW, ledger.PENDING, ledger.FEE, ledger.MINT}


def verify(connection: Connection) -> list[str]:
    """What is wrong, in words; nothing where the ledger is right.

    All queries must see the same moment: see snapshot().
    """
    return examine(connection).problems


def verify_database(database: Database) -> LedgerReport:
    """The same of a database that may be in use meanwhile. What cannot be read is a problem too."""
    try:
        with snapshot(database) as connection:
            return examine(connection)
    except (DatabaseError, ValueError) as error:
        # Without the statement, which says nothing to an operator. ValueError: text that is none.
        cause = error.orig if isinstance(error, DatabaseError) else error
        return LedgerReport(problems=[f"the ledger cannot be read: {cause}"])


@contextmanager
def snapshot(database: Database) -> Iterator[Connection]:
    """A connection whose queries all see the database as it was at the first of them."""
    with database.engine.connect() as connection:
        if database.is_sqlite:
            connection.exec_driver_sql("BEGIN")
            try:
                yield connection
            finally:
                connection.exec_driver_sql("ROLLBACK")
        else:
            connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection


def examine(connection: Connection) -> LedgerReport:
    report = LedgerReport()
    _check_chain(connection, report)
    _check_accounts(connection, report)
    _check_balances(connection, report)
    verify_holds.check_holds(connection, report)
    return report


def _entry_of(row: Row[Any]) -> NewEntry:
    return NewEntry(
        row.id, row.kind, row.debit_account, row.credit_account, row.amount, row.task_id, row.memo
    )


# -- the chain ----------------------------------------------------------------------------------------
def _check_chain(connection: Connection, report: LedgerReport) -> None:
    last_seq, last_hash = 0, ledger.GENESIS
    for row in stream(connection, select(ledger_entries).order_by(ledger_entries.c.seq)):
        report.entries += 1
        if row.seq != last_seq + 1:
            report.wrong(f"entries {last_seq + 1} to {row.seq - 1} are missing")
        posted = Posted(row.seq, _entry_of(row), row.debit_balance, row.credit_balance, row.created_at)
        if ledger.entry_hash(last_hash, posted) != row.hash:
            report.wrong(
                f"entry {row.seq} ({row.id}) is not what was written: its hash does not fit it and the "
                "entry before"
            )
        last_seq, last_hash = row.seq, row.hash
    heads = connection.execute(select(ledger_head)).all()
    if [tuple(head) for head in heads] != [(1, last_seq, last_hash)]:
        report.wrong(f"the head of the chain does not name its newest entry, {last_seq}")
    report.head = last_hash


# -- accounts -----------------------------------------------------------------------------------------
def _check_accounts(connection: Connection, report: LedgerReport) -> None:
    total, seen = 0, set()
    for row in stream(connection, select(ledger_accounts)):
        report.accounts += 1
        balance = _whole(row.balance)
        total += balance
        if row.kind == AccountKind.USER:
            right = row.user_id is not None and row.id == ledger.user_account(row.user_id)
        else:
            right = row.id == row.kind and row.user_id is None and row.id in _SYSTEM
            seen.add(row.id)
        if not right:
            report.wrong(f"account {row.id} is not what it says: a {row.kind} of user {row.user_id}")
        if balance < ledger.lowest_balance(row.id) or balance != row.balance:
            report.wrong(f"account {row.id} has a balance that cannot be: {row.balance}")
        if row.id == ledger.MINT:
            report.minted = -balance
    if total != 0:
        report.wrong(f"all balances together are {total} and not 0: CPT were made or lost")
    report.problems.extend(f"account {name} is missing" for name in sorted(_SYSTEM - seen))
    without = select(users.c.id).where(~exists().where(ledger_accounts.c.user_id == users.c.id))
    for row in connection.execute(without.order_by(users.c.id).limit(MAX_PROBLEMS + 1)):
        report.wrong(f"user {row.id} has no account")


# -- balances -----------------------------------------------------------------------------------------
def _check_balances(connection: Connection, report: LedgerReport) -> None:
    """Each account's entries in their order: every balance written beside one, and the last one of all."""
    columns = ledger_entries.c
    taken = select(
        columns.debit_account.label("account"), columns.seq, literal(-1).label("sign"), columns.amount,
        columns.debit_balance.label("after"),
    )  # fmt: skip
    given = select(
        columns.credit_account.label("account"), columns.seq, literal(1).label("sign"), columns.amount,
        columns.credit_balance.label("after"),
    )  # fmt: skip
    both = union_all(taken, given).subquery()
    finished: dict[str, int] = {}
    account: str | None = None
    running = 0
    # Both sides have an index in this order, so that the database merges them.
    for row in stream(connection, select(both).order_by(both.c.account, both.c.seq)):
        if row.account != account:
            if account is not None:
                finished[account] = running
            account, running = row.account, 0
            if len(finished) >= CHUNK_ROWS:
                _compare(connection, finished, report)
                finished = {}
        running += row.sign * _whole(row.amount)
        if running != row.after:
            report.wrong(f"entry {row.seq} says that {account} had {row.after} CPT after it, not {running}")
    if account is not None:
        finished[account] = running
    _compare(connection, finished, report)
    untouched = ~exists().where(columns.debit_account == ledger_accounts.c.id) & ~exists().where(
        columns.credit_account == ledger_accounts.c.id
    )
    query = select(ledger_accounts.c.id, ledger_accounts.c.balance).where(
        ledger_accounts.c.balance != 0, untouched
    )
    for account, balance in connection.execute(query.limit(MAX_PROBLEMS + 1)):
        report.wrong(f"account {account} has {balance} CPT, and no entry that says where from")


def _compare(connection: Connection, finished: dict[str, int], report: LedgerReport) -> None:
    query = select(ledger_accounts.c.id, ledger_accounts.c.balance).where(
        ledger_accounts.c.id.in_(list(finished))
    )
    there = {row.id: row.balance for row in connection.execute(query)}
    for account, balance in finished.items():
        if account not in there:
            report.wrong(f"account {account} of the entries is missing")
        elif there[account] != balance:
            report.wrong(f"account {account} has {there[account]} CPT; its entries make {balance}")


def _whole(value: object) -> int:
    """SQLite takes anything in any column; what is no number counts as nothing, and is found by its hash."""
    return value if isinstance(value, int) else 0
