"""PostgreSQL goes away under a transaction: what is done again, for how long, and what is not done twice.

A transaction whose COMMIT was not sent is undone by the server. One whose COMMIT got no answer is in doubt; a
mark that it wrote beside its work tells. The mark goes in with the COMMIT, in one message, and out with a
later one, so it costs no round trip. Before a transaction in doubt is done again its mark is written first:
where it is there already the work is done, and where the lost transaction is still under way the server makes
the one wait for the other. Knows no statements but those of marks.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

T = TypeVar("T")

# SQLSTATE. The server shuts down, has crashed, begins; does not wait for who stands still; has no place; may
# not write, as a server that was the first one until a moment ago.
_AWAY = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03", "25P04", "53300", "25006"})
_CONNECTION_CLASS = "08"
# Two that waited for each other, or saw each other's rows: the server has undone this one.
_CROSSED = frozenset({"40001", "40P01"})
_FIRST_PAUSE_SECONDS = 0.05
_MOST_PAUSE_SECONDS = 0.5
_OLD_SECONDS = 86_400
_SETTLED = "settled mark"

# A process that stands still in a transaction holds rows that others wait for, and one whose machine is gone
# is not there to end it: the server does.
SESSION = (
    "SET idle_in_transaction_session_timeout = '5s';"
    "SET tcp_keepalives_idle = 3; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 2;"
    "SET tcp_user_timeout = '8s'"
)


def is_lost(error: BaseException) -> bool:
    """Whether the same may be tried again, on another connection."""
    if not isinstance(error, DBAPIError):
        return False
    return _has_crossed(error) or is_away(error)


def is_away(error: DBAPIError) -> bool:
    """Whether there is no server for it just now."""
    state = str(getattr(error.orig, "sqlstate", None) or "")
    if state:
        return state in _AWAY or state.startswith(_CONNECTION_CLASS)
    # Without a state the server has said nothing: there is none, or the line broke.
    return error.connection_invalidated or type(error.orig).__name__ in {"OperationalError", "InterfaceError"}


def _has_crossed(error: DBAPIError) -> bool:
    return str(getattr(error.orig, "sqlstate", None) or "") in _CROSSED


class OutagePatience:
    """For how long a process waits for a server that is away: from when it was missed first, so in a long
    outage nobody waits, and threads do not fill with those who do. Thread-safe."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._away_since: float | None = None

    def answered(self) -> None:
        self._away_since = None

    def pause(self, tries: int, began: float) -> bool:
        """After a try that failed. False: it is told instead."""
        now = time.monotonic()
        with self._lock:
            if self._away_since is None:
                self._away_since = now
            until = min(self._away_since, began) + self._seconds
        if now >= until:
            return False
        time.sleep(min(until - now, _MOST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** min(tries, 10)))
        return True


class Transaction:
    """One write, however often it is tried."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._mark = secrets.token_hex(16)
        self._value: Any = None
        # COMMIT was sent, and nobody knows what became of it.
        self.in_doubt = False

    def run(self, work: Callable[[Connection], T]) -> T:
        """Once. After an error `in_doubt` says whether the work may be done."""
        with self._engine.connect() as connection:
            try:
                return self._run(connection, work)
            except DBAPIError as error:
                if is_lost(error) and not connection.invalidated:
                    # The next try has another one: this one's server may have become a standby.
                    connection.invalidate(error)
                raise

    def _run(self, connection: Connection, work: Callable[[Connection], T]) -> T:
        with connection.begin():
            if self.in_doubt and not _marked_first(connection, self._mark):
                # It was kept, and only its answer was lost.
                return self._value  # type: ignore[no-any-return]
            mark = "" if self.in_doubt else self._mark
            value = self._value = work(connection)
            try:
                _commit(connection, mark)
            except DBAPIError as error:
                # What the server itself refuses is undone.
                self.in_doubt = is_lost(error)
                raise
            self.in_doubt = False
            return value


def remove_old_marks(connection: Connection) -> int:
    """Those of processes that ended before they took them out."""
    query = "DELETE FROM write_marks WHERE at < extract(epoch from now()) - :seconds"
    return connection.execute(text(query), {"seconds": _OLD_SECONDS}).rowcount


def _marked_first(connection: Connection, mark: str) -> bool:
    """False: it is there. Waits for a transaction under way that has the same."""
    query = "INSERT INTO write_marks (id, at) VALUES (:id, extract(epoch from now())) ON CONFLICT DO NOTHING"
    return connection.execute(text(query), {"id": mark}).rowcount == 1


def _commit(connection: Connection, mark: str) -> None:
    """With a mark; and without the last one of this connection, which nobody will ask for any more."""
    words = []
    if mark:
        words.append(f"INSERT INTO write_marks (id, at) VALUES ('{mark}', extract(epoch from now()))")  # noqa: S608
    settled = connection.info.get(_SETTLED)
    if settled:
        words.append(f"DELETE FROM write_marks WHERE id = '{settled}'")  # noqa: S608 - made here, of hex digits
    words.append("COMMIT")
    import psycopg  # noqa: PLC0415 - a pool on SQLite has no need of the driver

    driver: Any = connection.connection.driver_connection
    try:
        driver.execute("; ".join(words), prepare=False)
    except psycopg.Error as error:
        broken = bool(driver.closed or driver.broken)
        if broken:
            connection.invalidate(error)
        raise DBAPIError.instance(
            "COMMIT", None, error, psycopg.Error, connection_invalidated=broken
        ) from error
    connection.info[_SETTLED] = mark
