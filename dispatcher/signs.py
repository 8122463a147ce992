"""Says that the dispatcher works, for as long as its threads turn: to `hivemind up`, or to systemd."""

from __future__ import annotations

import logging
import threading

from dispatcher.placing.placement_loop import PlacementLoop
from dispatcher.sweep.sweeper import Sweeper
from nodepool.watchdog import PERIOD_SECONDS, Watchdog

log = logging.getLogger(__name__)
# Longer than any pass or round that goes on: a pool of ten thousand nodes after a FLUSHALL takes its time.
STUCK_SECONDS = 300.0


class DispatcherSigns:
    """A thread beside the others."""

    def __init__(self, watchdog: Watchdog, sweeper: Sweeper, placement_loop: PlacementLoop) -> None:
        self._watchdog, self._sweeper, self._placement_loop = watchdog, sweeper, placement_loop
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="signs", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._watchdog.stopping()

    def _run(self) -> None:
        self._watchdog.ready()
        while not self._stopped.wait(PERIOD_SECONDS):
            stuck = max(self._sweeper.stuck_seconds(), self._placement_loop.stuck_seconds())
            if stuck < STUCK_SECONDS:
                self._watchdog.alive()
            else:
                log.error("a thread of the dispatcher has not turned for %.0f s", stuck)
