"""`Pool`, its tasks and its jobs: what a program imports.

    pool = hivemind.connect()
    job = pool.map(simulate, range(200), memory="512M", labels={"sweep": "first"})
    for task in job.as_completed(progress=True):
        print(task.index, task.result())

Every method raises `ClientError` or one of its kinds, and nothing else for what the pool, the network or the
input can do wrong; a function's own exception is raised as it is, with the traceback on the node as its
cause. `hivemind.pools.aio` has the same names for asyncio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Unpack

from hivemind import notify_targets
from hivemind.models import Identity
from hivemind.money import Balance, balance_steps
from hivemind.nodes import NodeInfo
from hivemind.notify_targets import NotifyTarget, NotifyTargetSet
from hivemind.pools import account, given, html, work
from hivemind.pools.executor import PoolExecutor
from hivemind.pools.link import ConnectionPlan, LastingToken, Link
from hivemind.pools.options import SubmitOptions, needs_of
from hivemind.pools.sync import Job, Task
from hivemind.sweeps import Sweep
from hivemind.tokens import read_token
from hivemind.told import NotificationInfo


class Pool:
    """A pool as one user. Safe to use from several threads; close it after use, or use it in `with`."""

    def __init__(self, plan: ConnectionPlan) -> None:
        """`hivemind.connect()` makes one."""
        self._plan = plan
        gateway = plan.channel()
        self._link = Link(gateway, LastingToken(gateway, plan.kept_token))

    def submit(
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
    ) -> Task:
        """Send a directory, a ZIP or a file with words for its entry script, or a function with its
        arguments.

        Of a function `Task.result()` answers with what it returned, of a path with its files, which are put
        below `files`. A pickled result over `in_memory` comes as a `ResultFile`. `include`: patterns of files
        of a directory that are left out by default. What is left out is warned of.
        """
        taking = given.taking(files, in_memory)
        chosen, (found, needs) = given.new_or(task_id), given.submission(work_, args, kwargs, options)
        sent = self._link.do(work.send(found, needs, chosen, given.patterns(include)))
        given.warn(sent.warnings)
        return Task(self._link, chosen, objects=not isinstance(found, Path), taking=taking)

    def map(
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
    ) -> Job:
        """One task for each item, which are one job: the function is sent once, with all items, and each task
        runs it with one of them. All are accepted or none; refused where they could cost more than `max_cpt`
        CPT (0: no bound).
        """
        taking = given.taking(files, in_memory)
        chosen, bound = given.new_job_or(job_id), given.whole(max_cpt, "max_cpt")
        found, needs = given.items(function, items, options)
        sent = self._link.do(work.send_items(found, needs, chosen, bound))
        given.warn(sent.warnings)
        return Job.sent(self._link, sent, objects=True, taking=taking, name=needs.name or found.name)

    def submit_array(
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
    ) -> Job:
        """A directory, a ZIP or a file as many tasks: so many, for each index of a range, or for every
        combination of values by their names. `{name}` and `{index}` in arguments and in `env` are each
        task's own."""
        taking = given.taking(files, given.IN_MEMORY)
        chosen, bound = given.new_job_or(job_id), given.whole(max_cpt, "max_cpt")
        source, sweep = given.path(path, "the path"), given.sweep(tasks)
        needs = needs_of(options, arguments=given.words(arguments))
        shown = given.patterns(include)
        sent = self._link.do(work.send_array(source, sweep, needs, chosen, bound, shown))
        given.warn(sent.warnings)
        return Job.sent(self._link, sent, objects=False, taking=taking, name=needs.name)

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
        """A `concurrent.futures.Executor`: code that has one changes one line.

        `max_workers`: no more tasks than so many are in the pool at once. Every call is a process of its own,
        and `initializer` is called in each before it.
        """
        return PoolExecutor(
            self._plan,
            max_workers=max_workers,
            initializer=initializer,
            initargs=initargs,
            taking=given.taking(files, in_memory),
            options=options,
        )

    def task(self, task_id: str, *, objects: bool = False, files: given.Source = given.FILES) -> Task:
        """A task that was sent before. With `objects` its result is unpickled, which runs what its node
        has written."""
        return Task(
            self._link, given.task_id(task_id), objects=objects, taking=given.taking(files, given.IN_MEMORY)
        )

    def job(self, job_id: str, *, objects: bool = False, files: given.Source = given.FILES) -> Job:
        """A job that was sent before. With `objects` its results are unpickled, which runs what its nodes
        have written."""
        taking = given.taking(files, given.IN_MEMORY)
        info = self._link.do(work.look_job(given.job_id(job_id)))
        return Job(self._link, info.job_id, info=info, objects=objects, taking=taking, name=info.name)

    def tasks(self) -> list[Task]:
        """Your tasks, newest first."""
        found = self._link.do(account.tasks())
        return [Task(self._link, info.task_id, info=info) for info in found]

    def jobs(self) -> list[Job]:
        """Your jobs, newest first."""
        found = self._link.do(account.jobs())
        return [Job(self._link, info.job_id, info=info, name=info.name) for info in found]

    def nodes(self) -> tuple[NodeInfo, ...]:
        """The pool's nodes, by their ids."""
        return self._link.do(account.nodes())

    def images(self) -> tuple[str, ...]:
        """What tasks may name as their image, first that of tasks that name none. Empty: an older pool."""
        return self._link.do(account.images())

    def set_notify_target(self, name: str, url: str, *, rotate: bool = False) -> NotifyTargetSet:
        """Be told at a URL when tasks end that say `notify=[name]`; see `NodePoolClient`."""
        return self._link.do(notify_targets.set_steps(name, url, rotate=rotate))

    def notify_targets(self) -> tuple[NotifyTarget, ...]:
        return self._link.do(notify_targets.list_steps())

    def remove_notify_target(self, name: str) -> str:
        return self._link.do(notify_targets.remove_steps(name))

    def test_notify_target(self, name: str, *, event_id: str = "") -> NotificationInfo:
        return self._link.do(notify_targets.try_steps(name, event_id))

    def confirm_notify_target(self, name: str, code: str) -> str:
        return self._link.do(notify_targets.confirm_steps(name, code))

    def balance(self) -> Balance:
        """Your CPT, what of it tasks hold, and your credit score."""
        return self._link.do(balance_steps(self.whoami().username))

    def whoami(self) -> Identity:
        """Who the token says you are. Asks nobody: it is read and not verified."""
        return read_token(self._link.token)

    def close(self) -> None:
        """What was sent goes on."""
        self._link.gateway.close()

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Pool {self._plan.endpoint.address}{account.as_whom(self._link.token)}>"

    def _repr_html_(self) -> str:
        return html.pool(self._plan.endpoint.address, account.as_whom(self._link.token))
