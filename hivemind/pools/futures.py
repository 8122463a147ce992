"""The futures of `PoolExecutor`, and the tasks in the pool that they stand for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from hivemind.functions.packing import Pickled
from hivemind.models import TaskInfo
from hivemind.pools import work
from hivemind.steps import Came, Steps, Together
from nodepool.domain.safe_text import harmless
from nodepool.domain.tasks.states import TaskState


class PoolFuture(Future[Any]):
    """A call in the pool. `task_id` is empty until it is sent."""

    def __init__(self, cancels: Callable[[PoolFuture], bool]) -> None:
        super().__init__()
        self._cancels = cancels
        self.task_id = ""
        # Its end is told by one: whoever cancels it, or who finds that its task has ended.
        self.deciding = threading.Lock()

    def cancel(self) -> bool:
        """Not sent yet: it never is. In the pool and not begun when that is asked: its task is stopped.
        Else False."""
        return self.cancelled() or (not self.done() and self._cancels(self))

    def cancel_here(self) -> bool:
        """Nobody waits for it any more; its task is somebody else's business."""
        if not super().cancel():
            return False
        self.set_running_or_notify_cancel()
        return True

    def begins(self) -> None:
        if not self.running() and not self.done():
            self.set_running_or_notify_cancel()

    def ends(self, came: Came | BaseException) -> None:
        if self.done():
            return
        error = came.error if isinstance(came, Came) else came
        if error is not None:
            self.set_exception(error)
        else:
            self.set_result(came.value if isinstance(came, Came) else None)

    def __repr__(self) -> str:
        task = f" of {harmless(self.task_id)}" if self.task_id else ""
        return super().__repr__().removesuffix(">") + f"{task}>"


@dataclass(frozen=True, slots=True)
class Submitted:
    """A call that is not sent yet: pickled by whoever gave it, so that what cannot be is refused at once."""

    future: PoolFuture
    item: Pickled
    name: str
    sources: dict[str, list[str]] = field(default_factory=dict, repr=False)


class SentJob:
    """Calls that are the tasks of one job."""

    def __init__(self, job_id: str, calls: list[Submitted]) -> None:
        self._following = work.Following(job_id)
        self.open = {f"{job_id}.{index}": call.future for index, call in enumerate(calls)}
        for task_id, future in self.open.items():
            future.task_id = task_id

    def look(self) -> Steps[list[TaskInfo]]:
        """Tasks that have ended since the last time. Says which have begun."""
        ended = yield from self._following.look()
        job = self._following.job
        if job.counts.get(TaskState.RUNNING):
            running = yield from work.tasks_of(job.job_id, (TaskState.RUNNING,))
            for task in running:
                if task.task_id in self.open:
                    self.open[task.task_id].begins()
        return ended


class SentTasks:
    """Calls that are a task each: those that run several times to be compared."""

    def __init__(self, sent: dict[str, Submitted]) -> None:
        self.open = {task_id: call.future for task_id, call in sent.items()}
        for task_id, future in self.open.items():
            future.task_id = task_id

    def look(self) -> Steps[list[TaskInfo]]:
        found: list[Came] = yield Together(
            [work.look(task_id) for task_id in self.open], work.RESULTS_AT_ONCE
        )
        tasks: list[TaskInfo] = [each.get() for each in found]
        for task in tasks:
            if task.state is TaskState.RUNNING:
                self.open[task.task_id].begins()
        return [task for task in tasks if task.final]


Sent = SentJob | SentTasks
