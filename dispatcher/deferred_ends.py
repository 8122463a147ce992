"""Ends whose result must be looked into first: done beside the sweep and the calls, one at a time, in turns.

Nothing is remembered here: an end that was not done is found again by the sweep.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from functools import partial

from nodepool.domain.errors import NodePoolError, RateLimitedError
from nodepool.domain.heavy_limits import HeavyLimits
from nodepool.domain.scheduling.fair_turns import QueueBounds
from nodepool.heavy import jobs
from nodepool.heavy.lanes import ThreadLane
from nodepool.heavy.processes import HeavyWork
from nodepool.stores.files.encryption import Sealed
from nodepool.workflows.result_files import Wanted

log = logging.getLogger(__name__)
_ONE_AT_A_TIME = QueueBounds(width=1, of_one=1, waiting_of_one=100, waiting=2000)


class DeferredEnds:
    """Thread-safe. Its process begins with the first work."""

    def __init__(self, limits: HeavyLimits) -> None:
        self._heavy = HeavyWork(limits)
        self._lane = ThreadLane("later", _ONE_AT_A_TIME)
        self._lock = threading.Lock()
        self._names: set[str] = set()

    def do(self, account: Hashable, name: str, work: Callable[[], None]) -> None:
        """Unless it is under way already, or too much waits."""
        with self._lock:
            if name in self._names:
                return
            self._names.add(name)
        try:
            self._lane.submit(account, partial(self._do, name, work))
        except RateLimitedError as error:
            log.warning("%s waits for the next look: %s", name, error)
            self._forget(name)

    def digest(self, account: Hashable, want: Wanted) -> str | None:
        """For a thread that may wait (see nodepool.heavy.processes for what it raises)."""
        return self._heavy.submit(account, jobs.digest, *want.arguments).result()

    def output(self, account: Hashable, result: Sealed, most_bytes: int) -> bytes:
        """The output in a stored result. The same."""
        return self._heavy.submit(account, jobs.output, result, most_bytes).result()

    def close(self) -> None:
        self._heavy.close()
        self._lane.close()

    def _do(self, name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except NodePoolError as error:
            log.warning("%s is found again by the sweep: %s", name, error)
        except Exception:
            log.exception("%s failed; the sweep finds it again", name)
        finally:
            self._forget(name)

    def _forget(self, name: str) -> None:
        with self._lock:
            self._names.discard(name)
