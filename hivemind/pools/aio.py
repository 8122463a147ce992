"""The same pool for asyncio, over grpc.aio: the names and arguments of `Pool`, `Task` and `Job`, to be
awaited.

    async with hivemind.AsyncPool.connect() as pool:
        job = await pool.map(simulate, range(200))
        async for task in job.as_completed():
            print(task.index, await task.result())

Used in one event loop. What takes this machine's time, such as unpacking a result, is done in a thread.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, Unpack

from hivemind import notify_targets
from hivemind.job_results import Fetched
from hivemind.jobs import JobInfo
from hivemind.models import Identity, ResultInfo, TaskInfo
from hivemind.money import Balance, balance_steps
from hivemind.nodes import NodeInfo
from hivemind.notify_targets import NotifyTarget, NotifyTargetSet
from hivemind.pools import account, downloads, given, html, work
from hivemind.pools.executor import PoolExecutor
from hivemind.pools.handles import JobHandle, TaskHandle
from hivemind.pools.link import AioLink, ConnectionPlan
from hivemind.pools.options import SubmitOptions, changes_of, needs_of
from hivemind.pools.progress import Progress, shown
from hivemind.steps import Came
from hivemind.sweeps import Sweep
from hivemind.tokens import read_token
from hivemind.told import NotificationInfo
from nodepool.domain.tasks.states import TaskState

_Result = TypeVar("_Result")


class AsyncTask(TaskHandle):
    """See `Task`."""

    _link: AioLink

    async def status(self) -> TaskInfo:
        return self._seen(await self._link.do(work.look(self.task_id)))

    async def wait(self, timeout: float | None = None) -> TaskInfo:
        return self._seen(await self._link.do(work.wait(self.task_id, given.timeout(timeout))))

    async def result(self, timeout: float | None = None) -> Any:
        info = self.info if self.info is not None and self.info.final else await self.wait(timeout)
        return await self._link.do(work.outcome(info, self._taking, objects=self._objects))

    async def download(self, destination: given.Source, *, overwrite: bool = False) -> ResultInfo:
        place = given.path(destination, "the destination")
        return await self._link.do(work.files(self.task_id, place, overwrite=overwrite))

    async def logs(self) -> str:
        return await self._link.do(work.logs(self.task_id))

    async def stop(self) -> str:
        return await self._link.do(work.stop(self.task_id))

    async def resubmit(self, **options: Unpack[SubmitOptions]) -> AsyncTask:
        again = work.resubmit(self.task_id, given.new_or(""), changes_of(options))
        return AsyncTask(self._link, await self._link.do(again), objects=self._objects, taking=self._taking)

    async def done(self) -> bool:
        if self.info is None or not self.info.final:
            await self.status()
        return self.info is not None and self.info.final

    def __await__(self) -> Generator[Any, None, Any]:
        return self.result().__await__()


class AsyncJobTasks:
    """See `JobTasks`."""

    def __init__(self, job: AsyncJob, states: Iterable[TaskState]) -> None:
        self._job, self.states = job, tuple(states)

    async def tasks(self) -> list[AsyncTask]:
        return await self._job.tasks_in(self.states)

    async def __aiter__(self) -> AsyncIterator[AsyncTask]:
        for task in await self.tasks():
            yield task

    async def resubmit(self, *, max_cpt: int = 0, **options: Unpack[SubmitOptions]) -> AsyncJob:
        return await self._job.resubmit(self.states, max_cpt=max_cpt, **options)

    def __repr__(self) -> str:
        words = " or ".join(state.value.lower() for state in self.states)
        return f"<tasks of {self._job.job_id} that are {words}>"


class AsyncJob(JobHandle):
    """See `Job`."""

    _link: AioLink

    async def status(self) -> JobInfo:
        return self._seen(await self._link.do(work.look_job(self.job_id)))

    async def wait(self, timeout: float | None = None, *, progress: Progress = False) -> JobInfo:
        async for _ in self._batches(timeout, progress):
            pass
        return self.info if self.info is not None else await self.status()

    async def results(
        self, timeout: float | None = None, *, progress: Progress = False, return_exceptions: bool = False
    ) -> list[Any]:
        found: dict[int, Came] = {}
        async for batch in self._batches(timeout, progress):
            found |= await self._came(batch)
        return work.in_order(found, return_exceptions=return_exceptions)

    async def as_completed(
        self, timeout: float | None = None, *, progress: Progress = False
    ) -> AsyncIterator[AsyncTask]:
        async for batch in self._batches(timeout, progress):
            for info in batch:
                yield self._task(info)

    def task(self, index: int) -> AsyncTask:
        found = given.whole(index, "index")
        task_id = f"{self.job_id}.{found}"
        return AsyncTask(self._link, task_id, index=found, objects=self._objects, taking=self._taking)

    async def tasks(self) -> list[AsyncTask]:
        return await self.tasks_in(())

    async def tasks_in(self, states: Iterable[TaskState]) -> list[AsyncTask]:
        return [self._task(info) for info in await self._link.do(work.tasks_of(self.job_id, states))]

    @property
    def failed(self) -> AsyncJobTasks:
        return AsyncJobTasks(self, (TaskState.FAILED,))

    async def download(
        self, template: str = "hivemind-results/{task}", *, only: Sequence[str] = ()
    ) -> list[Fetched]:
        steps = downloads.all_files(self.job_id, given.template(template), given.patterns(only))
        return await self._link.do(steps)

    async def resubmit(
        self, states: Iterable[TaskState] = (), *, max_cpt: int = 0, **options: Unpack[SubmitOptions]
    ) -> AsyncJob:
        bound, chosen = given.whole(max_cpt, "max_cpt"), given.new_job_or("")
        again = work.resubmit_job(self.job_id, chosen, states, bound, changes_of(options))
        info = await self._link.do(again)
        return AsyncJob(
            self._link, info.job_id, info=info, objects=self._objects, taking=self._taking, name=self.name
        )

    async def stop(self) -> int:
        return await self._link.do(work.stop_job(self.job_id))

    async def __aiter__(self) -> AsyncIterator[Any]:
        found: dict[int, Came] = {}
        batches = self._batches(None, progress=False)
        for index in self._indices or [task.index or 0 for task in await self.tasks()]:
            while index not in found:
                found |= await self._came(await anext(batches))
            yield found.pop(index).get()

    def __await__(self) -> Generator[Any, None, list[Any]]:
        return self.results().__await__()

    async def _came(self, tasks: list[TaskInfo]) -> dict[int, Came]:
        return await self._link.do(work.came_of(self.job_id, tasks, self._taking, objects=self._objects))

    def _task(self, info: TaskInfo) -> AsyncTask:
        index = work.index_of(self.job_id, info)
        return AsyncTask(
            self._link, info.task_id, index=index, info=info, objects=self._objects, taking=self._taking
        )

    async def _batches(self, timeout: float | None, progress: Progress) -> AsyncIterator[list[TaskInfo]]:
        following = work.Following(self.job_id, given.timeout(timeout))
        with shown(progress, self.name or self.job_id) as told:
            while not following.is_over:
                batch = await self._link.do(following.next())
                told(self._seen(following.job))
                yield batch


class AsyncPool:
    """See `Pool`. Made anywhere, and used in the event loop that uses it first."""

    def __init__(self, plan: ConnectionPlan) -> None:
        self._plan = plan
        self._link = AioLink(plan)

    async def submit(
        self,
        work_: given.Source | Callable[..., Any],
        /,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str = "",
        include: Sequence[str] = (),
        files: given.Source = given.FILES,
        in_memory: str = given.IN_MEMORY,
        **options: Unpack[SubmitOptions],
    ) -> AsyncTask:
        taking = given.taking(files, in_memory)
        chosen, (found, needs) = given.new_or(task_id), given.submission(work_, args, kwargs, options)
        sent = await self._link.do(work.send(found, needs, chosen, given.patterns(include)))
        given.warn(sent.warnings)
        return AsyncTask(self._link, chosen, objects=not isinstance(found, Path), taking=taking)

    async def map(
        self,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        /,
        *,
        job_id: str = "",
        max_cpt: int = 0,
        files: given.Source = given.FILES,
        in_memory: str = given.IN_MEMORY,
        **options: Unpack[SubmitOptions],
    ) -> AsyncJob:
        taking = given.taking(files, in_memory)
        chosen, bound = given.new_job_or(job_id), given.whole(max_cpt, "max_cpt")
        found, needs = given.items(function, items, options)
        sent = await self._link.do(work.send_items(found, needs, chosen, bound))
        given.warn(sent.warnings)
        return AsyncJob.sent(self._link, sent, objects=True, taking=taking, name=needs.name or found.name)

    async def submit_array(
        self,
        path: given.Source,
        tasks: Sweep | Mapping[str, Iterable[object]] | range | int,
        /,
        *arguments: str,
        job_id: str = "",
        max_cpt: int = 0,
        include: Sequence[str] = (),
        files: given.Source = given.FILES,
        **options: Unpack[SubmitOptions],
    ) -> AsyncJob:
        taking = given.taking(files, given.IN_MEMORY)
        chosen, bound = given.new_job_or(job_id), given.whole(max_cpt, "max_cpt")
        source, sweep = given.path(path, "the path"), given.sweep(tasks)
        needs = needs_of(options, arguments=given.words(arguments))
        shown = given.patterns(include)
        sent = await self._link.do(work.send_array(source, sweep, needs, chosen, bound, shown))
        given.warn(sent.warnings)
        return AsyncJob.sent(self._link, sent, objects=False, taking=taking, name=needs.name)

    def executor(
        self,
        max_workers: int | None = None,
        *,
        initializer: Callable[..., Any] | None = None,
        initargs: Sequence[Any] = (),
        files: given.Source = given.FILES,
        in_memory: str = given.IN_MEMORY,
        **options: Unpack[SubmitOptions],
    ) -> PoolExecutor:
        """For `loop.run_in_executor`: the same as `Pool.executor`, with a connection of its own."""
        return PoolExecutor(
            self._plan,
            max_workers=max_workers,
            initializer=initializer,
            initargs=initargs,
            taking=given.taking(files, in_memory),
            options=options,
        )

    def task(self, task_id: str, *, objects: bool = False, files: given.Source = given.FILES) -> AsyncTask:
        taking = given.taking(files, given.IN_MEMORY)
        return AsyncTask(self._link, given.task_id(task_id), objects=objects, taking=taking)

    async def job(self, job_id: str, *, objects: bool = False, files: given.Source = given.FILES) -> AsyncJob:
        taking = given.taking(files, given.IN_MEMORY)
        info = await self._link.do(work.look_job(given.job_id(job_id)))
        return AsyncJob(self._link, info.job_id, info=info, objects=objects, taking=taking, name=info.name)

    async def tasks(self) -> list[AsyncTask]:
        found = await self._link.do(account.tasks())
        return [AsyncTask(self._link, info.task_id, info=info) for info in found]

    async def jobs(self) -> list[AsyncJob]:
        found = await self._link.do(account.jobs())
        return [AsyncJob(self._link, info.job_id, info=info, name=info.name) for info in found]

    async def nodes(self) -> tuple[NodeInfo, ...]:
        return await self._link.do(account.nodes())

    async def images(self) -> tuple[str, ...]:
        return await self._link.do(account.images())

    async def set_notify_target(self, name: str, url: str, *, rotate: bool = False) -> NotifyTargetSet:
        """Be told at a URL when tasks end that say `notify=[name]`; see `NodePoolClient`."""
        return await self._link.do(notify_targets.set_steps(name, url, rotate=rotate))

    async def notify_targets(self) -> tuple[NotifyTarget, ...]:
        return await self._link.do(notify_targets.list_steps())

    async def remove_notify_target(self, name: str) -> str:
        return await self._link.do(notify_targets.remove_steps(name))

    async def test_notify_target(self, name: str, *, event_id: str = "") -> NotificationInfo:
        return await self._link.do(notify_targets.try_steps(name, event_id))

    async def confirm_notify_target(self, name: str, code: str) -> str:
        return await self._link.do(notify_targets.confirm_steps(name, code))

    async def balance(self) -> Balance:
        return await self._link.do(balance_steps(self.whoami().username))

    def whoami(self) -> Identity:
        return read_token(self._link.token)

    async def close(self) -> None:
        await self._link.close()

    async def __aenter__(self) -> AsyncPool:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncPool {self._plan.endpoint.address}{account.as_whom(self._link.token)}>"

    def _repr_html_(self) -> str:
        return html.pool(self._plan.endpoint.address, account.as_whom(self._link.token))
