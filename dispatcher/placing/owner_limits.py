"""What keeps a user's tasks back though there are nodes: as many running as they may have, or no money."""

from __future__ import annotations

from collections.abc import Sequence

from dispatcher.context import Dispatcher
from dispatcher.placing.running_limits import RunningLimits
from dispatcher.placing.spending_limits import SpendingLimits
from nodepool.domain.scheduling.planner import Planned
from nodepool.domain.scheduling.wait_queue import WaitingTask, WaitQueue
from nodepool.stores.sql.task_rows import QueuedTask


class OwnerLimits:
    """For the placement loop's thread."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._running, self._spending = RunningLimits(dispatcher), SpendingLimits(dispatcher)
        self.allows, self.affords = self._running.allows, self._spending.affords

    def add_tasks(self, rows: Sequence[QueuedTask]) -> None:
        """The owners of these waiting tasks are in the wait queue now."""
        self._running.add_tasks(rows)
        self._spending.add_tasks(rows)

    def count_placed(self, task: WaitingTask, times: int) -> None:
        self._running.count_placed(task, times)
        self._spending.count_placed(task, times)

    def not_covered(self, planned: Sequence[Planned]) -> None:
        """There was no money for these after all."""
        self._spending.not_covered({it.task.owner_id for it in planned})

    def look(self, queue: WaitQueue, now: float, *, ended: bool) -> None:
        self._running.look(queue, now, ended=ended)
        self._spending.look(queue, now, ended=ended)

    def write_reasons(self, queue: WaitQueue) -> None:
        self._running.write_reasons(queue)
        self._spending.write_reasons(queue)
