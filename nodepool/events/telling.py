"""Tells an event: counts it for /metrics, and writes its line.

Of events that strangers can bring about at will (`FloodEvent`) so many lines a minute are written, and of one
stranger fewer; how many were left out is a line of its own at the end of the minute. They are all counted.
Values are made harmless here, so that nobody's name makes a line, a colour or a field.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from enum import Enum

import structlog

from nodepool.domain.safe_text import harmless
from nodepool.events import counting
from nodepool.events.catalogue import Event, FloodEvent, Level, LinesLeftOut

log = structlog.get_logger(__name__)

WINDOW_SECONDS = 60.0
MOST_LINES, MOST_LINES_OF_ONE = 60, 10
MOST_CHARACTERS = 200
_DECIMALS = 3


class FloodGate:
    """How many lines of one event are written. Thread-safe."""

    def __init__(
        self,
        action: str,
        write: Callable[[Event], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        window_seconds: float = WINDOW_SECONDS,
    ) -> None:
        self._action, self._write, self._clock = action, write, clock
        self._window_seconds = window_seconds
        self._lock = threading.Lock()
        self._until = float("-inf")
        self._written: Counter[str] = Counter()
        self._left_out = 0
        self._timer: threading.Timer | None = None

    def say(self, event: FloodEvent) -> None:
        with self._lock:
            now = self._clock()
            left_out = self._begin(now) if now >= self._until else 0
            has_room = self._written[event.of_whom] < MOST_LINES_OF_ONE and self._written.total() < MOST_LINES
            if has_room:
                self._written[event.of_whom] += 1
            else:
                self._left_out += 1
                self._set_timer(self._until - now)
        self._tell(left_out)
        if has_room:
            self._write(event)

    def flush(self) -> None:
        """How many were left out since it was said last, where there are any."""
        with self._lock:
            left_out, self._left_out, self._timer = self._left_out, 0, None
        self._tell(left_out)

    def _begin(self, now: float) -> int:
        left_out, self._left_out = self._left_out, 0
        self._until = now + self._window_seconds
        self._written = Counter()
        return left_out

    def _set_timer(self, seconds: float) -> None:
        """Who was flooded may not be any more, and then nobody would say how many there were."""
        if self._timer is None:
            self._timer = threading.Timer(seconds, self.flush)
            self._timer.daemon = True
            self._timer.start()

    def _tell(self, left_out: int) -> None:
        if left_out:
            self._write(LinesLeftOut(of=self._action, lines=left_out))


_gates: dict[str, FloodGate] = {}
_gates_lock = threading.Lock()


def tell(event: Event) -> None:
    """For whoever has brought it about, after its commit."""
    counting.count(event)
    if isinstance(event, FloodEvent):
        _gate(event.action).say(event)
    else:
        write(event)


def tell_all(events: Iterable[Event]) -> None:
    for event in events:
        tell(event)


def write(event: Event) -> None:
    """Its line, whatever there was before. A command that keeps no log has its stdout for its answer."""
    if not structlog.is_configured():
        return
    say = log.warning if event.level is Level.WARNING else log.info
    values = {name: _shown(value) for name, value in event.fields() if value is not None}
    say(event.sentence, action=event.action, **values)


def flush() -> None:
    """What is to be said of lines that were left out, at the process's end."""
    with _gates_lock:
        gates = list(_gates.values())
    for gate in gates:
        gate.flush()


def _gate(action: str) -> FloodGate:
    with _gates_lock:
        if not _gates:
            atexit.register(flush)
        return _gates.setdefault(action, FloodGate(action, write))


def _shown(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return harmless(value[:MOST_CHARACTERS])
    return round(value, _DECIMALS) if isinstance(value, float) else value
