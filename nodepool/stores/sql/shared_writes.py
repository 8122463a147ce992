"""Writes that arrive together and share a transaction: of those who would wait for the same lock anyway, the
first one does the others' work with its own, and all of it is kept by one COMMIT.

Whoever finds nobody at work takes all that waits, on its own thread, and hands over to the first of those who
came meanwhile: alone, a write waits for nobody. Each is in a savepoint of its own and hears only after the
COMMIT. What fails as a whole is done one by one. Knows no statements but those of savepoints; what the writes
have in common is their `Sharing`'s.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from nodepool.domain.errors import DatabaseUnavailableError
from nodepool.stores.sql.lost_connections import is_away, is_lost

T = TypeVar("T")
Work = Callable[[Connection], Any]
# A server keeps the numbers of up to 64 subtransactions where everybody finds them at once; and whoever waits
# for what a group has locked waits for all of it.
MOST = 48


class Shared(Protocol):
    """Of one transaction."""

    def saved(self) -> Any:
        """How it is before a write."""

    def undone(self, saved: Any) -> None:
        """What came since does not count: the database has undone it."""

    def finish(self) -> None:
        """What was collected for the end goes in."""


class Sharing(Protocol):
    """What writes of one kind have in common: what they lock first, and what is done once for all of them."""

    def open(self, connection: Connection, *, several: bool) -> AbstractContextManager[Shared]: ...


class RunTransaction(Protocol):
    """Does `work` in a transaction, again where that may be, and returns when it is kept."""

    def __call__(self, work: Callable[[Connection], T], /) -> T: ...


@dataclass(slots=True, eq=False)
class _Write:
    work: Work
    order: int
    woken: threading.Event = field(default_factory=threading.Event)
    leads: bool = False
    value: Any = None
    error: BaseException | None = None


class SharedWrites:
    """Thread-safe."""

    def __init__(self, run: RunTransaction, sharing: Sharing) -> None:
        self._run, self._sharing = run, sharing
        self._lock = threading.Lock()
        self._waiting: deque[_Write] = deque()
        self._somebody_leads = False

    def write(self, work: Callable[[Connection], T], order: int) -> T:
        """`order`: of two in one transaction the lower one is first, so that what they lock has an order."""
        mine = _Write(work, order)
        with self._lock:
            self._waiting.append(mine)
            mine.leads = not self._somebody_leads
            self._somebody_leads = True
        if not mine.leads:
            mine.woken.wait()
        if mine.leads:
            self._lead()
        if mine.error is not None:
            raise mine.error
        return mine.value  # type: ignore[no-any-return]

    def _lead(self) -> None:
        """The first of those who wait is who calls it."""
        with self._lock:
            group = [self._waiting.popleft() for _ in range(min(MOST, len(self._waiting)))]
        try:
            self._commit(group)
        finally:
            with self._lock:
                following = self._waiting[0] if self._waiting else None
                self._somebody_leads = following is not None
                if following is not None:
                    following.leads = True
            for write in (*group, *((following,) if following is not None else ())):
                write.woken.set()

    def _commit(self, group: Sequence[_Write]) -> None:
        if len(group) == 1:
            self._alone(group[0])
            return
        ordered = sorted(group, key=lambda write: write.order)
        try:
            for write, (value, error) in zip(
                ordered, self._run(lambda c: self._all(c, ordered)), strict=True
            ):
                write.value, write.error = value, error
        except DatabaseUnavailableError as error:
            _all_hear(group, error)
        except DBAPIError as error:
            if is_away(error):
                _all_hear(group, error)
                return
            # One of them is wrong in a way that shows at the end only, or two groups have crossed.
            for write in ordered:
                self._alone(write)
        except Exception:  # noqa: BLE001 - whatever it is: one of them has it
            for write in ordered:
                self._alone(write)
        except BaseException as error:
            _all_hear(group, error)
            raise

    def _alone(self, write: _Write) -> None:
        def once(connection: Connection) -> Any:
            with self._sharing.open(connection, several=False) as shared:
                value = write.work(connection)
                shared.finish()
            return value

        try:
            write.value = self._run(once)
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller, whatever it is
            write.error = error

    def _all(self, connection: Connection, group: Sequence[_Write]) -> list[tuple[Any, Exception | None]]:
        found: list[tuple[Any, Exception | None]] = []
        with self._sharing.open(connection, several=True) as shared:
            for number, write in enumerate(group):
                saved = shared.saved()
                _execute(connection, "RELEASE SAVEPOINT one; SAVEPOINT one" if number else "SAVEPOINT one")
                try:
                    found.append((write.work(connection), None))
                except Exception as error:
                    if is_lost(error):
                        raise
                    _execute(connection, "ROLLBACK TO SAVEPOINT one")
                    shared.undone(saved)
                    found.append((None, error))
            shared.finish()
        return found


def _all_hear(group: Sequence[_Write], error: BaseException) -> None:
    for write in group:
        write.value, write.error = None, error


def _execute(connection: Connection, words: str) -> None:
    """Several statements in one message, which the driver must not prepare."""
    import psycopg  # noqa: PLC0415 - a pool on SQLite has no need of the driver

    driver: Any = connection.connection.driver_connection
    try:
        driver.execute(words, prepare=False)
    except psycopg.Error as error:
        broken = bool(driver.closed or driver.broken)
        if broken:
            connection.invalidate(error)
        raise DBAPIError.instance(words, None, error, psycopg.Error, connection_invalidated=broken) from error
