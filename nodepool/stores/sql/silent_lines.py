"""Statements whose answer does not come because their line is dead, told from those that take long.

libpq waits for an answer for ever, and where something holds the line and delivers nothing, the kernel sees
no fault in it. So the server is asked, over another connection, what it does for who has waited for some
seconds: a session that is idle there has answered, or has never been asked, and its line is dead. So is
that of one that is there no more. Knows no statements.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

import psycopg

log = logging.getLogger(__name__)
# Of a statement before the server is asked about it; until it is asked again; and of the question.
SILENT_SECONDS = 5.0
AGAIN_SECONDS = 1.0
ASK_SECONDS = 3.0
_PERIOD_SECONDS = 0.5
_STATE = """
SELECT pg_backend_pid(), (SELECT coalesce(state, 'unknown') FROM pg_stat_activity WHERE pid = %s)
"""


class _Session(Enum):
    """What the server does for somebody who waits."""

    BUSY = auto()  # or nobody can tell
    IDLE = auto()  # or has ended
    UNREACHABLE = auto()


class SilentLines:
    """Cuts dead lines among those that `connect` makes. A thread, which begins with the first of them."""

    def __init__(self) -> None:
        # Who waits, since when, by the connection's identity.
        self._waiting: dict[int, tuple[float, Any]] = {}
        # Who was asked about, when, and found idle.
        self._asked: dict[int, tuple[float, float, bool]] = {}
        self._beginning = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._kind = _watched(self._waiting)

    def connect(self, *arguments: Any, **options: Any) -> psycopg.Connection[Any]:
        connection = self._kind.connect(*arguments, **options)
        with self._beginning:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(
                    target=self._watch,
                    args=(lambda pid: _session(pid, arguments, options),),
                    name="silent lines",
                    daemon=True,
                )
                self._thread.start()
        return connection

    def close(self) -> None:
        self._closed.set()

    def _watch(self, session: Callable[[int], _Session]) -> None:
        while not self._closed.wait(_PERIOD_SECONDS):
            waiting = dict(self._waiting)
            self._asked = {key: told for key, told in self._asked.items() if key in waiting}
            for key, (since, connection) in waiting.items():
                self._look(key, since, connection, session)

    def _look(self, key: int, since: float, connection: Any, session: Callable[[int], _Session]) -> None:
        now = time.monotonic()
        of, at, idle = self._asked.get(key, (since, since, False))
        if of != since:  # it waits for another answer by now
            at, idle = since, False
        if now - at < (AGAIN_SECONDS if idle else SILENT_SECONDS):
            return
        found = _within_seconds(session, connection.info.backend_pid)
        # Its answer may have been on the way: twice is no chance.
        dead = found is _Session.UNREACHABLE or (found is _Session.IDLE and idle)
        if dead and self._waiting.get(key, (0.0, None))[0] == since:
            _cut(connection)
        self._asked[key] = (since, time.monotonic(), found is _Session.IDLE)


def _watched(waiting: dict[int, tuple[float, Any]]) -> type[psycopg.Connection[Any]]:
    class Watched(psycopg.Connection[Any]):
        """Everything that psycopg waits for goes through here, pings of the pool and commits too."""

        def wait(self, *arguments: Any, **options: Any) -> Any:
            waiting[id(self)] = (time.monotonic(), self)
            try:
                return super().wait(*arguments, **options)
            finally:
                waiting.pop(id(self), None)

    return Watched


def _within_seconds(session: Callable[[int], _Session], pid: int) -> _Session:
    """The question has a line of its own, which may be dead, too."""
    answer: queue.SimpleQueue[_Session] = queue.SimpleQueue()
    threading.Thread(target=lambda: answer.put(session(pid)), name="silent line", daemon=True).start()
    try:
        return answer.get(timeout=ASK_SECONDS)
    except queue.Empty:
        return _Session.UNREACHABLE


def _session(pid: int, arguments: Any, options: Any) -> _Session:
    """One that is not there has been ended, and its last word was lost on the line. Behind a pooler, which
    gives sessions numbers of its own, none is there, and nothing is cut."""
    try:
        with psycopg.connect(*arguments, **{**options, "connect_timeout": int(ASK_SECONDS)}) as other:
            own, state = other.execute(_STATE, (pid,)).fetchone() or (0, "")
            numbers_are_the_servers = own == other.info.backend_pid
    except (OSError, psycopg.Error) as error:
        log.debug("the database cannot be asked about a silent line: %s", error)
        # A server that refuses is there.
        refused = isinstance(error, psycopg.Error) and error.sqlstate is not None
        return _Session.BUSY if refused else _Session.UNREACHABLE
    gone = state is None and numbers_are_the_servers
    return _Session.IDLE if gone or str(state).startswith("idle") else _Session.BUSY


def _cut(connection: Any) -> None:
    """Whoever waits gets an error at once; closing is theirs."""
    log.warning("a line to the database is dead: its server has nothing to do for who waits there; it is cut")
    with (
        contextlib.suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(connection.pgconn.socket)) as line,
    ):
        line.shutdown(socket.SHUT_RDWR)
