"""Notices when this machine cannot run tasks any more (a dead engine, a full disk), and when it can again."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

# Reports between two looks: engine and disks are asked a small question, and rarely.
_PERIODS = 3


class EngineWatch:
    """`problem` says why nothing can be run now, or nothing; it may take a few seconds. `on_change` gets
    the same words when that begins, when it is another problem and when it has ended, until it says that it
    has told the pool. `told`: what the pool was told before.
    """

    def __init__(
        self,
        problem: Callable[[], str],
        on_change: Callable[[str], bool],
        report_period_seconds: Callable[[], float],
    ) -> None:
        self._problem = problem
        self._on_change = on_change
        self._report_period_seconds = report_period_seconds
        self._woken = threading.Event()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="engine-watch", daemon=True)
        self.told = ""

    def start(self) -> None:
        self._thread.start()

    def look_soon(self) -> None:
        """A run has just met something. Returns at once."""
        self._woken.set()

    def close(self) -> None:
        """Does not wait: a look at an engine that hangs takes its time."""
        self._ending = True
        self._woken.set()

    def _run(self) -> None:
        while True:
            self._woken.wait(_PERIODS * self._report_period_seconds())
            self._woken.clear()
            if self._ending:
                return
            try:
                self._look()
            except Exception:
                log.exception("the look at engine and disks failed", action="engine.unknown")

    def _look(self) -> None:
        problem = self._problem()
        if self._ending or _kind(problem) == _kind(self.told):
            return
        if problem:
            log.error("no tasks can be run here", action="engine.away", reason=problem)
        else:
            log.info("tasks can be run here again", action="engine.back")
        if self._on_change(problem):
            self.told = problem


def _kind(problem: str) -> str:
    """Without its numbers, which change all the time."""
    return problem.partition(":")[0]
