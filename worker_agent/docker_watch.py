"""Notices when what runs the tasks stops working, and when it works again."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

# Reports between two looks: the engine is asked a small question, and rarely.
_PERIODS = 3


class EngineWatch:
    """`problem` says why nothing can be run now, or nothing; it may take a few seconds. `on_change` gets
    the same words when that begins and when it has ended, until it says that it has told the pool.
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
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine-watch", daemon=True)
        self._away = False

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Does not wait: a look at an engine that hangs takes its time."""
        self._ending.set()

    def _run(self) -> None:
        while not self._ending.wait(_PERIODS * self._report_period_seconds()):
            try:
                self._look()
            except Exception:
                log.exception("the look at the container engine failed", action="engine.unknown")

    def _look(self) -> None:
        problem = self._problem()
        if self._ending.is_set() or bool(problem) == self._away:
            return
        if problem:
            log.error("no tasks can be run here", action="engine.away", reason=problem)
        else:
            log.info("tasks can be run here again", action="engine.back")
        if self._on_change(problem):
            self._away = bool(problem)
