"""What is told to tasks that wait: why, each group once, with few writes."""

from __future__ import annotations

import logging
import time

from dispatcher.context import Dispatcher
from nodepool.domain.scheduling.placement import Requirements
from nodepool.domain.scheduling.planner import Planner
from nodepool.domain.tasks.reasons import Reason
from nodepool.stores.sql import placements as placing

log = logging.getLogger(__name__)

# Numbers change all the time: the same tasks are not told more often than this.
_TELL_SECONDS = 5.0


class WaitReasonWriter:
    """Tells tasks why they wait, each group once, with few writes."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        # By requirements: until when nothing is told again, and to whom it was.
        self._told: dict[Requirements, tuple[float, set[str]]] = {}

    def write_reasons(self, planner: Planner) -> None:
        now = time.monotonic()
        for group in planner.queue.groups():
            if not group.blocked:
                continue
            until, told = self._told.get(group.requirements, (0.0, set[str]()))
            if now < until and group.waiting <= len(told):
                continue
            tasks = planner.queue.tasks_of(group)
            # Those whose owner is held, or has no money for them, are told of that.
            ids = [task.task_id for task in tasks if not planner.queue.is_kept_back(task)]
            if now < until:
                # Who has come since: one more of many must not cost as much as all of them.
                ids = [task_id for task_id in ids if task_id not in told]
                told.update(ids)
            else:
                self._told[group.requirements] = (now + _TELL_SECONDS, set(ids))
            if ids:
                self._write(ids, planner.decide(group).reason())
        if len(self._told) > 2 * len(planner.queue.groups()) + 100:
            self._told = {requirements: told for requirements, told in self._told.items() if told[0] > now}

    def _write(self, task_ids: list[str], reason: Reason) -> None:
        dispatcher, now = self._dispatcher, self._dispatcher.clock()
        news = dispatcher.database.write(lambda c: placing.set_reason(c, task_ids, reason, now))
        if news:
            log.info("%d tasks wait: %s", len(news), reason)
