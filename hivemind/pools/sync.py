"""A task and a job for programs that wait in their own thread; both can be awaited, too."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, Unpack

from hivemind.job_results import Fetched
from hivemind.jobs import JobInfo
from hivemind.models import ResultInfo, TaskInfo
from hivemind.pools import downloads, given, work
from hivemind.pools.handles import JobHandle, TaskHandle
from hivemind.pools.link import Link
from hivemind.pools.options import SubmitOptions, changes_of
from hivemind.pools.progress import Progress, shown
from hivemind.steps import Came
from nodepool.domain.tasks.states import TaskState


class Task(TaskHandle):
    """One task. `await task` is `task.result()` without holding up the event loop."""

    _link: Link

    def status(self) -> TaskInfo:
        """How it is now."""
        return self._seen(self._link.do(work.look(self.task_id)))

    def wait(self, timeout: float | None = None) -> TaskInfo:
        """The task when it has ended, however it did. Raises NotYetError after `timeout` seconds."""
        return self._seen(self._link.do(work.wait(self.task_id, given.timeout(timeout))))

    def result(self, timeout: float | None = None) -> Any:
        """What the function returned, or raised; of a path its files. Waits for the end.

        Raises TaskFailedError where the task failed or was stopped, NotYetError after `timeout` seconds.
        """
        info = self.info if self.info is not None and self.info.final else self.wait(timeout)
        return self._link.do(work.outcome(info, self._taking, objects=self._objects))

    def download(self, destination: given.Source, *, overwrite: bool = False) -> ResultInfo:
        """Its files, unpacked into this directory."""
        place = given.path(destination, "the destination")
        return self._link.do(work.files(self.task_id, place, overwrite=overwrite))

    def logs(self) -> str:
        """All output that the pool keeps of it."""
        return self._link.do(work.logs(self.task_id))

    def stop(self) -> str:
        """Ask that it be stopped; answers the pool's message."""
        return self._link.do(work.stop(self.task_id))

    def resubmit(self, **options: Unpack[SubmitOptions]) -> Task:
        """Run it once more, when it has ended: a new task, with the package that the pool has. Options say
        what is to be different."""
        again = work.resubmit(self.task_id, given.new_or(""), changes_of(options))
        return Task(self._link, self._link.do(again), objects=self._objects, taking=self._taking)

    def done(self) -> bool:
        """Whether it has ended, however it did."""
        if self.info is None or not self.info.final:
            self.status()
        return self.info is not None and self.info.final

    def __await__(self) -> Generator[Any, None, Any]:
        return asyncio.to_thread(self.result).__await__()


class JobTasks:
    """Some tasks of a job: those in these states."""

    def __init__(self, job: Job, states: Iterable[TaskState]) -> None:
        self._job, self.states = job, tuple(states)

    def tasks(self) -> list[Task]:
        """By their indices, as they are now."""
        return self._job.tasks_in(self.states)

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks())

    def resubmit(self, *, max_cpt: int = 0, **options: Unpack[SubmitOptions]) -> Job:
        """Run them once more, when they have ended: a new job, whose tasks keep their indices and items."""
        return self._job.resubmit(self.states, max_cpt=max_cpt, **options)

    def __repr__(self) -> str:
        words = " or ".join(state.value.lower() for state in self.states)
        return f"<tasks of {self._job.job_id} that are {words}>"


class Job(JobHandle):
    """Many tasks. `await job` is `job.results()` without holding up the event loop."""

    _link: Link

    def status(self) -> JobInfo:
        """How it is now: how many tasks are in which state and why, and what it cost so far."""
        return self._seen(self._link.do(work.look_job(self.job_id)))

    def wait(self, timeout: float | None = None, *, progress: Progress = False) -> JobInfo:
        """The job when all of its tasks have ended. Raises NotYetError after `timeout` seconds."""
        for _ in self._batches(timeout, progress):
            pass
        return self.info if self.info is not None else self.status()

    def results(
        self, timeout: float | None = None, *, progress: Progress = False, return_exceptions: bool = False
    ) -> list[Any]:
        """What each task answered, by their indices. The first exception is raised, or all are in the list.

        Raises NotYetError after `timeout` seconds.
        """
        found: dict[int, Came] = {}
        for batch in self._batches(timeout, progress):
            found |= self._came(batch)
        return work.in_order(found, return_exceptions=return_exceptions)

    def as_completed(self, timeout: float | None = None, *, progress: Progress = False) -> Iterator[Task]:
        """Its tasks, each when it has ended, however it did. `progress=True` shows a bar.

        Raises NotYetError `timeout` seconds after the first was asked for.
        """
        for batch in self._batches(timeout, progress):
            yield from map(self._task, batch)

    def task(self, index: int) -> Task:
        """The task with this index."""
        index = given.whole(index, "index")
        return Task(
            self._link, f"{self.job_id}.{index}", index=index, objects=self._objects, taking=self._taking
        )

    def tasks(self) -> list[Task]:
        """All of them by their indices, as they are now."""
        return self.tasks_in(())

    def tasks_in(self, states: Iterable[TaskState]) -> list[Task]:
        """Those in one of these states."""
        return [self._task(info) for info in self._link.do(work.tasks_of(self.job_id, states))]

    @property
    def failed(self) -> JobTasks:
        """Its tasks that have failed by the time they are asked for."""
        return JobTasks(self, (TaskState.FAILED,))

    def download(
        self, template: str = "hivemind-results/{task}", *, only: Sequence[str] = ()
    ) -> list[Fetched]:
        """The files of all tasks that have ended, each into a directory of its own, such as `out/{index}`.

        What is there already is not fetched again. `only`: patterns of the files that are kept.
        """
        return self._link.do(downloads.all_files(self.job_id, given.template(template), given.patterns(only)))

    def resubmit(
        self, states: Iterable[TaskState] = (), *, max_cpt: int = 0, **options: Unpack[SubmitOptions]
    ) -> Job:
        """Run its tasks in these states (none: all) once more, when they have ended: a new job,
        whose tasks keep their indices and items."""
        bound, chosen = given.whole(max_cpt, "max_cpt"), given.new_job_or("")
        again = work.resubmit_job(self.job_id, chosen, states, bound, changes_of(options))
        info = self._link.do(again)
        return Job(
            self._link, info.job_id, info=info, objects=self._objects, taking=self._taking, name=self.name
        )

    def stop(self) -> int:
        """Ask that all of its tasks be stopped; answers how many had not ended."""
        return self._link.do(work.stop_job(self.job_id))

    def __iter__(self) -> Iterator[Any]:
        """What each task answered, by their indices, as soon as it is that one's turn."""
        found: dict[int, Came] = {}
        batches = self._batches(None, progress=False)
        for index in self._indices or [task.index or 0 for task in self.tasks()]:
            while index not in found:
                found |= self._came(next(batches))
            yield found.pop(index).get()

    def __await__(self) -> Generator[Any, None, list[Any]]:
        return asyncio.to_thread(self.results).__await__()

    def _came(self, tasks: list[TaskInfo]) -> dict[int, Came]:
        return self._link.do(work.came_of(self.job_id, tasks, self._taking, objects=self._objects))

    def _task(self, info: TaskInfo) -> Task:
        index = work.index_of(self.job_id, info)
        return Task(
            self._link, info.task_id, index=index, info=info, objects=self._objects, taking=self._taking
        )

    def _batches(self, timeout: float | None, progress: Progress) -> Iterator[list[TaskInfo]]:
        following = work.Following(self.job_id, given.timeout(timeout))
        with shown(progress, self.name or self.job_id) as told:
            while not following.is_over:
                batch = self._link.do(following.next())
                told(self._seen(following.job))
                yield batch
