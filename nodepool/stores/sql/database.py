"""The database: one way to read, one way to write, the same for SQLite and PostgreSQL.

A write is a function of a connection that runs in one transaction. On SQLite, which has one writer
at a time anyway, waiting writes of this process share a transaction (each in its own savepoint) and
so one fsync: group commit. On PostgreSQL, which groups commits itself, those share one that would wait
for each other's locks all the same (shared_writes.py), and each other write has its own.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    OperationalError,
    TimeoutError as PoolTimeoutError,
)

from nodepool import keepalive
from nodepool.domain.errors import (
    DatabaseUnavailableError,
    InvalidInputError,
    StorageFullError,
    UnavailableError,
)
from nodepool.events.catalogue import Event
from nodepool.events.telling import tell_all
from nodepool.stores.sql import noted_events
from nodepool.stores.sql.lost_connections import SESSION, OutagePatience, Transaction, is_lost
from nodepool.stores.sql.shared_writes import SharedWrites, Sharing

__all__ = ["Connection", "Database", "database_file", "shown_url", "translated_errors"]

T = TypeVar("T")
_MAX_GROUP = 256
_POSTGRES_DISK_FULL = "53100"  # SQLSTATE disk_full
_BUSY_TIMEOUT_SECONDS = 15
_WAL_RETRY_SECONDS = 0.02
IN_DOUBT = (
    "the pool's database went away while this was kept, and whether it was is not known; send the same again "
    "with its id, or look"
)
# libpq's names of what keepalive.py has for all connections.
_LINE_OPTIONS = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": keepalive.IDLE_SECONDS,
    "keepalives_interval": keepalive.PROBE_SECONDS,
    "keepalives_count": keepalive.PROBES,
    "tcp_user_timeout": keepalive.UNCONFIRMED_SECONDS * 1000,
}


class Database:
    """Opens the database of a URL. Thread-safe; close() ends its writer."""

    def __init__(self, url: str, *, patience_seconds: float = 0.0) -> None:
        """`patience_seconds`: for how long it is done again where PostgreSQL went away; 0: told at once."""
        parsed = _with_driver(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        # One that works for a moment and ends may do long things in a transaction, such as a backup.
        session = SESSION if patience_seconds else ""
        self.engine = _sqlite_engine(parsed) if self.is_sqlite else _postgres_engine(parsed, session)
        self._writer = _GroupWriter(self.engine) if self.is_sqlite else None
        self._patience = OutagePatience(patience_seconds) if patience_seconds and not self.is_sqlite else None
        # Of writes that share what they lock, by what that is.
        self._shared: dict[Sharing, SharedWrites] = {}
        # When a write of this process was last on disk, by time.monotonic.
        self.written_at: float | None = None

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work`; each of its queries sees what is committed by then. It may be run more than once.

        Raises UnavailableError when the database cannot be reached.
        """

        def once() -> T:
            with self.engine.connect() as connection:
                return work(connection)

        with translated_errors():
            return self._again(once)

    def write(
        self,
        work: Callable[[Connection], T],
        *,
        patient: bool = True,
        sharing: Sharing | None = None,
        order: int = 0,
    ) -> T:
        """Run `work` in a transaction and return when it is on disk; its exception undoes it.

        What was noted in it is told then (`noted_events`), and of one that is undone nothing.

        `work` must be quick and only touch the connection: on SQLite other writes wait for it, and where
        PostgreSQL goes away it is run again. What it does is kept once. `patient`: false for who wants to
        know at once that nothing can be kept. `sharing`: what it and others begin with, so that they can be
        in one transaction; of those in one the lowest `order` is first.
        """

        def noting(connection: Connection) -> tuple[T, list[Event]]:
            return noted_events.collect(connection, work)

        with translated_errors():
            if self._writer:
                value, events = self._writer.run(noting)
            elif sharing is not None:
                value, events = self._shared_writes(sharing).write(noting, order)
            else:
                value, events = self._transaction(noting, patient=patient)
        self.written_at = time.monotonic()
        tell_all(events)
        return value

    def _shared_writes(self, sharing: Sharing) -> SharedWrites:
        # Of two that are made at once the same one is used by both.
        return self._shared.get(sharing) or self._shared.setdefault(
            sharing, SharedWrites(self._transaction, sharing)
        )

    def _transaction(self, work: Callable[[Connection], T], *, patient: bool = True) -> T:
        if self._patience is not None:
            return self._write_again(work, patient=patient)
        with self.engine.begin() as connection:
            return work(connection)

    def _write_again(self, work: Callable[[Connection], T], *, patient: bool) -> T:
        transaction = Transaction(self.engine)
        try:
            return self._again(lambda: transaction.run(work), patient=patient)
        except DBAPIError as error:
            if transaction.in_doubt:
                raise DatabaseUnavailableError(IN_DOUBT) from error
            raise

    def _again(self, once: Callable[[], T], *, patient: bool = True) -> T:
        tries, began = 0, time.monotonic()
        while True:
            try:
                value = once()
            except DBAPIError as error:
                waits = patient and self._patience is not None and is_lost(error)
                if not waits or not self._patience.pause(tries, began):  # type: ignore[union-attr]
                    raise
                tries += 1
                continue
            if self._patience is not None:
                self._patience.answered()
            return value

    def close(self) -> None:
        if self._writer:
            self._writer.close()
        self.engine.dispose()


def database_file(url: str) -> str | None:
    """The file that SQLite's database is in, empty for one in memory; None for one that a server has."""
    parsed = make_url(url)
    return parsed.database or "" if parsed.get_backend_name() == "sqlite" else None


def shown_url(url: str) -> str:
    """Without its password."""
    return make_url(url).render_as_string(hide_password=True)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Driver errors as the pool's own. IntegrityError passes: it means something to the caller."""
    try:
        yield
    except IntegrityError:
        raise
    except OperationalError as error:
        if _is_disk_full(error.orig):
            raise StorageFullError from error
        raise DatabaseUnavailableError(
            "the pool's database cannot be reached just now; try again in a moment"
        ) from error
    except PoolTimeoutError as error:
        raise DatabaseUnavailableError(
            "the pool's database is too busy just now; try again in a moment"
        ) from error
    except DataError as error:
        # Such as a NUL character, which PostgreSQL has no place for.
        raise InvalidInputError("a value of the request cannot be stored") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise DatabaseUnavailableError(
                "the pool's database cannot be reached just now; try again"
            ) from error
        raise


def _is_disk_full(error: BaseException | None) -> bool:
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return getattr(error, "sqlstate", None) == _POSTGRES_DISK_FULL


def _with_driver(url: str) -> URL:
    """A plain postgresql:// would ask for a driver that is not installed."""
    parsed = make_url(url)
    return parsed.set(drivername="postgresql+psycopg") if parsed.drivername == "postgresql" else parsed


def _postgres_engine(url: URL, session: str) -> Engine:
    # What is in the URL goes first.
    options = {**_LINE_OPTIONS, **{name: value for name, value in url.query.items() if name in _LINE_OPTIONS}}
    engine = create_engine(
        url, pool_size=20, max_overflow=10, pool_pre_ping=True, hide_parameters=True, connect_args=options
    )
    # Here, because a pool on SQLite has no need of the driver.
    from nodepool.stores.sql.silent_lines import SilentLines  # noqa: PLC0415

    lines = SilentLines()
    event.listen(engine, "engine_disposed", lambda _engine: lines.close())

    @event.listens_for(engine, "do_connect")
    def _watched(_dialect: Any, _record: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
        connection = lines.connect(*arguments, **options)
        if session:
            connection.autocommit = True
            connection.execute(session)
            connection.autocommit = False
        return connection

    return engine


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(
        url,
        hide_parameters=True,
        connect_args={"timeout": _BUSY_TIMEOUT_SECONDS, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: Any) -> None:
        # The driver's own transactions begin too late; begin() below says when.
        connection.isolation_level = None
        _use_wal(connection)
        for pragma in ("synchronous=FULL", "foreign_keys=ON", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def _use_wal(connection: sqlite3.Connection) -> None:
    """Changing the journal does not wait for other connections as all else does, so it is tried again."""
    deadline = time.monotonic() + _BUSY_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_WAL_RETRY_SECONDS)
        else:
            return


class _GroupWriter:
    """One thread that runs waiting writes together and commits them at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: queue.SimpleQueue[tuple[Callable[[Connection], Any], Future[Any]] | None] = (
            queue.SimpleQueue()
        )
        self._closed = False
        self._closing = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="database-writer", daemon=True)
        self._thread.start()

    def run(self, work: Callable[[Connection], T]) -> T:
        future: Future[T] = Future()
        # Nothing may come behind close()'s mark: nobody would answer it.
        with self._closing:
            if self._closed:
                raise UnavailableError("the pool is shutting down")
            self._waiting.put((work, future))
        return future.result()

    def close(self) -> None:
        with self._closing:
            self._closed = True
            self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            group = [first]
            stop = False
            while len(group) < _MAX_GROUP:
                try:
                    following = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    stop = True
                    break
                group.append(following)
            self._commit(group)
            if stop:
                return

    def _commit(self, group: list[tuple[Callable[[Connection], Any], Future[Any]]]) -> None:
        done: list[tuple[Future[Any], Any]] = []
        failed: list[tuple[Future[Any], Exception]] = []
        try:
            with self._engine.connect() as connection:
                _execute(connection, "BEGIN IMMEDIATE")
                try:
                    if len(group) == 1:
                        # Whatever is wrong with it undoes the transaction.
                        done.append((group[0][1], group[0][0](connection)))
                    else:
                        for work, future in group:
                            self._run_one(connection, work, future, done, failed)
                    _execute(connection, "COMMIT")
                except BaseException:
                    _rollback(connection)
                    raise
        except BaseException as error:  # noqa: BLE001 - it belongs to the callers, whatever it is
            for _, future in group:
                if not future.done():
                    future.set_exception(error)
            return
        # Only now: a write fails because of another one of the group, and who hears of it looks for that one.
        for future, value in done:
            future.set_result(value)
        for future, failure in failed:
            future.set_exception(failure)

    @staticmethod
    def _run_one(
        connection: Connection,
        work: Callable[[Connection], Any],
        future: Future[Any],
        done: list[tuple[Future[Any], Any]],
        failed: list[tuple[Future[Any], Exception]],
    ) -> None:
        _execute(connection, "SAVEPOINT one")
        try:
            value = work(connection)
        except OperationalError:
            raise
        except Exception as error:  # noqa: BLE001 - what is wrong with one write must not undo its neighbours
            _execute(connection, "ROLLBACK TO one")
            failed.append((future, error))
        else:
            done.append((future, value))
        _execute(connection, "RELEASE one")


def _execute(connection: Connection, words: str) -> None:
    """What has no values and no rows; what SQLAlchemy does for these would cost most of it."""
    driver: Any = connection.connection.driver_connection
    try:
        driver.execute(words)
    except sqlite3.Error as error:
        raise DBAPIError.instance(words, None, error, sqlite3.Error) from error


def _rollback(connection: Connection) -> None:
    try:
        _execute(connection, "ROLLBACK")
    except OperationalError:
        # SQLite has rolled back itself, as it does on a full disk.
        connection.invalidate()
