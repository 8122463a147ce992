"""What is not needed any more goes, in small steps beside the sweep: a slow disk must not hold the sweep up.

Which dispatcher does it, the sweep decides: it looks here once a pass. Every step may be done twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from dispatcher.context import Dispatcher, open_files
from dispatcher.sweep import left_nodes
from dispatcher.sweep.expired_tasks import ExpiredTasks
from dispatcher.sweep.left_nodes import LeftNodes
from dispatcher.sweep.notifications import remove_old as remove_notifications
from dispatcher.sweep.orphans import OrphanScan
from nodepool.domain.errors import NodePoolError
from nodepool.domain.scheduling.fair_turns import QueueBounds
from nodepool.heavy.lanes import ThreadLane, be_nice
from nodepool.stores.sql.lost_connections import remove_old_marks

log = logging.getLogger(__name__)
_ONE_AT_A_TIME = QueueBounds(width=1, of_one=1, waiting_of_one=1, waiting=1)
# Of one look; the next one goes on.
_LOOK_SECONDS = 0.5
_NICE = 5


class Housekeeping:
    """`look` and `close` for one thread; the work has another."""

    def __init__(self, dispatcher: Dispatcher, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._dispatcher = dispatcher
        self._monotonic = monotonic
        self._lane = ThreadLane("housekeeping", _ONE_AT_A_TIME)
        self._busy = False
        self._closed = False
        self._expired: ExpiredTasks | None = None
        # What is looked for now and then: how often, and when next.
        self._now_and_then: list[tuple[float, Callable[[], object]]] = []
        self._due: list[float] = []

    def look(self) -> None:
        """Begin a step, unless one is under way."""
        if not self._busy:
            self._busy = True
            self._lane.submit("housekeeping", self._work)

    def close(self) -> None:
        self._closed = True
        self._lane.close()

    def _work(self) -> None:
        try:
            be_nice(_NICE)
            self.step()
        except NodePoolError as error:
            log.warning("what is old is removed later: %s", error)
        except Exception:
            log.exception("what is old could not be removed; it is tried again")
        finally:
            self._busy = False

    def step(self) -> None:
        """Some of what is due. Raises UnavailableError."""
        expired = self._open()
        until = self._monotonic() + _LOOK_SECONDS
        found = True
        while found and self._monotonic() < until and not self._closed:
            found = sum(step() for step in expired.steps()) > 0
        for index, (period, act) in enumerate(self._now_and_then):
            if self._monotonic() >= self._due[index] and not self._closed:
                self._due[index] = self._monotonic() + period
                act()

    def _open(self) -> ExpiredTasks:
        """The files are opened with the first look: the folder may be the gateway's to make."""
        if self._expired is None:
            files = open_files(self._dispatcher.settings)
            nodes, orphans = LeftNodes(self._dispatcher), OrphanScan(self._dispatcher, files)
            self._now_and_then = [
                (30.0, orphans.step),
                (30.0, nodes.remove_keys),
                (600.0, nodes.remove_users),
                (600.0, self._remove_marks),
                (600.0, lambda: remove_notifications(self._dispatcher)),
                (left_nodes.NOTED_SECONDS, nodes.note_seen),
                (left_nodes.NOTED_SECONDS, nodes.take_out),
            ]
            self._due = [self._monotonic() for _ in self._now_and_then]
            self._expired = ExpiredTasks(self._dispatcher, files)
        return self._expired

    def _remove_marks(self) -> None:
        if not self._dispatcher.database.is_sqlite:
            self._dispatcher.database.write(remove_old_marks)
