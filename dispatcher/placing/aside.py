"""What follows a placement and need not be waited for: hints to nodes, and what their owners have used.

All of it may be lost: the sweep derives hints again from SQL, and what was used is no record. So the next
placement does not wait for a broker that is far away.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from nodepool.domain.errors import NodePoolError

log = logging.getLogger(__name__)
# Rounds that may wait to be told; whoever places waits for them then.
_MOST_WAITING = 20


class Aside:
    """In order, on a thread of its own once it was started; before that at once, by whoever calls."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._waiting: list[Future[None]] = []

    def start(self) -> None:
        self._thread = ThreadPoolExecutor(1, "after placing")

    def stop(self) -> None:
        """What was given is done first."""
        if self._thread is not None:
            self._thread.shutdown()

    def do(self, work: Callable[[], object]) -> None:
        if self._thread is None:
            work()
            return
        self._waiting = [future for future in self._waiting if not future.done()]
        if len(self._waiting) >= _MOST_WAITING:
            self._waiting[0].exception()
        self._waiting.append(self._thread.submit(_do, work))


def _do(work: Callable[[], object]) -> None:
    try:
        work()
    except NodePoolError as error:
        log.warning("what follows a placement is told by the sweep: %s", error)
    except Exception:
        log.exception("what follows a placement failed; the sweep tells it")
