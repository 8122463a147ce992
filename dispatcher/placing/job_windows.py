"""Tasks of jobs that wait: of each job a window is in the wait queue, and the rest stays in SQL.

A job may have a hundred thousand tasks that ask for the same. Who hears of one of them looks for its job: the
first so many, by their indices, and more when these have gone. So a large job costs the wait queue, its hints
and the reasons of those who wait no more than a small one. It decides nothing of who is next.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from dispatcher.context import Dispatcher
from nodepool.domain.scheduling.wait_queue import WaitQueue
from nodepool.stores.sql import jobs as job_store
from nodepool.stores.sql.task_rows import QueuedTask

# Tasks of a job that are looked up at once, and the number of waiting ones below which more are.
WINDOW = 1000
_LOW = 500


@dataclass(slots=True)
class _Window:
    after: int  # the last index that was looked at
    ids: set[str] = field(default_factory=set)  # of tasks that were put into the wait queue
    is_last: bool = False  # nothing comes after them


class JobWindows:
    """For the placement loop's thread."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._jobs: dict[str, _Window] = {}

    def heard(self, rows: Iterable[QueuedTask]) -> None:
        """These tasks are in the wait queue now; of those of jobs the others are looked for."""
        for row in rows:
            if not row.job_id:
                continue
            window = self._jobs.get(row.job_id)
            if window is None:
                window = self._jobs[row.job_id] = _Window(after=-1)
            elif row.id not in window.ids:
                # Given back, or its hint was lost, or a later step of a flow goes on: there may be more.
                window.after, window.is_last = min(window.after, row.job_index), False
            window.ids.add(row.id)

    def more(self, queue: WaitQueue) -> list[str]:
        """Tasks that may come into the wait queue: of each job of which few are left there the next ones."""
        found: list[str] = []
        for job_id, window in list(self._jobs.items()):
            window.ids = {task_id for task_id in window.ids if task_id in queue}
            while not window.is_last and len(window.ids) < _LOW:
                found += self._next(job_id, window, queue)
            if window.is_last and not window.ids:
                del self._jobs[job_id]
        return found

    def _next(self, job_id: str, window: _Window, queue: WaitQueue) -> list[str]:
        page = self._dispatcher.database.read(
            lambda c: job_store.waiting_page(c, job_id, window.after, WINDOW)
        )
        window.is_last = len(page) < WINDOW
        if page:
            window.after = page[-1].job_index
        ids = [task.id for task in page]
        window.ids.update(ids)
        return [task_id for task_id in ids if task_id not in queue]
