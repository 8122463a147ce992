"""Movements of several writes in one transaction: the ledger's head is locked once, first of all, and what
they move goes in at the end with three statements, however many they are.

As long as the head is locked nobody else changes a balance. So balances are read once and kept here, and each
movement is checked against them when it is made. Whatever asks the ledger's tables meanwhile finds all of it:
what was collected goes in before that statement.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, event, text

from nodepool.domain.errors import NotFoundError, StateConflictError
from nodepool.domain.money.ledger import NewEntry
from nodepool.stores.sql.ledger import postings
from nodepool.stores.sql.ledger.postings import SHARED_HEAD, Head
from nodepool.stores.sql.tables import ledger_entries

_TABLES = "ledger_"
_BALANCES = text("SELECT id, balance FROM ledger_accounts WHERE id = ANY(:ids)")
_PUT_BALANCES = text(
    "UPDATE ledger_accounts AS a SET balance = c.after "
    "FROM unnest(CAST(:ids AS text[]), CAST(:before AS bigint[]), CAST(:after AS bigint[])) "
    "AS c(id, before, after) WHERE a.id = c.id AND a.balance = c.before"
)
_ARRAYS = {"seq": "bigint", "amount": "bigint", "debit_balance": "bigint", "credit_balance": "bigint"} | {
    "created_at": "double precision"
}
_NAMES = tuple(column.name for column in ledger_entries.columns)
_PUT_ENTRIES = text(
    f"INSERT INTO ledger_entries ({', '.join(_NAMES)}) SELECT * FROM unnest("  # noqa: S608 - names of columns
    + ", ".join(f"CAST(:{name} AS {_ARRAYS.get(name, 'text')}[])" for name in _NAMES)
    + ")"
)


@dataclass(frozen=True, slots=True)
class _State:
    head: Head
    kept_seq: int
    balances: dict[str, int]
    kept_balances: dict[str, int]
    rows: list[dict[str, Any]]


class SharedLedger:
    """Of one transaction, whose head is locked. `collects`: or each movement goes in at once."""

    def __init__(self, connection: Connection, *, collects: bool) -> None:
        self._connection, self.collects = connection, collects
        self.head = postings.lock_head(connection)
        self._kept_seq = self.head.seq
        # As they are after all movements, and as the database has them.
        self._balances: dict[str, int] = {}
        self._kept_balances: dict[str, int] = {}
        self._rows: list[dict[str, Any]] = []
        self._is_asking = False

    def append(self, entries: Sequence[NewEntry], now: float) -> None:
        """Raises NotEnoughCptError and NotFoundError; then nothing of it counts."""
        self._read({name for entry in entries for name in (entry.debit, entry.credit)})
        running = dict(self._balances)
        rows, head = postings.posted(self.head, entries, running, now)
        self._rows += rows
        self._balances, self.head = running, head

    def _read(self, names: set[str]) -> None:
        unknown = sorted(names - self._balances.keys())
        if not unknown:
            return
        self._is_asking = True
        found = {str(row[0]): int(row[1]) for row in self._connection.execute(_BALANCES, {"ids": unknown})}
        self._is_asking = False
        if len(found) < len(unknown):
            raise NotFoundError("there is no such account; nothing was moved")
        self._balances |= found
        self._kept_balances |= found

    # -- as the other writes of the transaction want it ---------------------------------------------------
    def saved(self) -> _State:
        return _State(
            self.head, self._kept_seq, dict(self._balances), dict(self._kept_balances), list(self._rows)
        )

    def undone(self, saved: _State) -> None:
        self.head, self._kept_seq, self._rows = saved.head, saved.kept_seq, saved.rows
        self._balances, self._kept_balances = saved.balances, saved.kept_balances

    def finish(self) -> None:
        if not self._rows:
            return
        self._is_asking = True
        changed = [it for it, balance in self._balances.items() if balance != self._kept_balances[it]]
        values = {
            "ids": changed,
            "before": [self._kept_balances[it] for it in changed],
            "after": [self._balances[it] for it in changed],
        }
        if self._connection.execute(_PUT_BALANCES, values).rowcount != len(changed):
            raise StateConflictError("the ledger changed at the same moment; try again")
        self._connection.execute(
            _PUT_ENTRIES, {name: [_plain(row[name]) for row in self._rows] for name in _NAMES}
        )
        postings.move_head(self._connection, self._kept_seq, self.head)
        self._kept_seq, self._kept_balances, self._rows = self.head.seq, dict(self._balances), []
        self._is_asking = False

    def before_statement(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if self._rows and not self._is_asking and _TABLES in statement:
            self.finish()


class LedgerSharing:
    """For writes that move CPT, or may: `database.write(work, sharing=TOGETHER)`."""

    @contextmanager
    def open(self, connection: Connection, *, several: bool) -> Iterator[SharedLedger]:
        shared = SharedLedger(connection, collects=several)
        info = connection.info
        if several:
            event.listen(connection, "before_cursor_execute", shared.before_statement)
        info[SHARED_HEAD] = shared
        try:
            yield shared
        finally:
            info.pop(SHARED_HEAD, None)


TOGETHER = LedgerSharing()


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, str) else value
