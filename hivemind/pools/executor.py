"""A pool as a `concurrent.futures.Executor`: code that has one changes one line.

Calls that are given while others are being sent go together, as the tasks of one job. One thread sends, looks
what has ended, and ends when nothing is left: an executor that nobody closes holds up no program for longer
than its calls.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from time import monotonic
from typing import Any

from hivemind.array_upload import new_job_id
from hivemind.errors import ClientError, InvalidInputError, UnreachableError
from hivemind.functions.errors import ExecutorClosedError, WorkerSetupError
from hivemind.functions.outcome import Taking
from hivemind.functions.packing import FunctionWork, Pickled
from hivemind.functions.pickling import check_function, dumps, name_of, own_modules_by_value, sources_of
from hivemind.models import TaskInfo
from hivemind.needs import TaskNeeds
from hivemind.pools import given, work
from hivemind.pools.futures import PoolFuture, Sent, SentJob, SentTasks, Submitted
from hivemind.pools.link import ConnectionPlan, LastingToken, Link
from hivemind.steps import Came, Together, in_threads
from hivemind.uploading import new_task_id
from nodepool.domain.tasks.states import TaskState

# Of one job: calls, and bytes of what they are called with.
_MOST_CALLS, _MOST_BYTES = 1000, 32 << 20
# Whoever gives calls one after the other is waited for so long, in all so often.
_GATHER_SECONDS, _GATHER_TIMES = 0.005, 10
_Call = tuple[tuple[Any, ...], dict[str, Any]]
_NOT_BEGUN = frozenset({TaskState.WAITING, TaskState.QUEUED, TaskState.PLACED})


class PoolExecutor(Executor):
    """`Pool.executor` makes one. Futures are `PoolFuture`: they know their `task_id`."""

    def __init__(
        self,
        plan: ConnectionPlan,
        *,
        max_workers: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Sequence[Any] = (),
        taking: Taking,
        options: Mapping[str, Any],
    ) -> None:
        """Nothing is sent yet. Raises InvalidInputError."""
        self._most_open = given.whole(max_workers, "max_workers", 1) if max_workers is not None else 0
        self._needs: TaskNeeds = given.needs_for_objects(options)
        self._taking = taking
        self._setup = None if initializer is None else (check_function(initializer), tuple(initargs))
        with own_modules_by_value():
            dumps(self._setup, "the initializer")
        gateway = plan.channel()
        self._link = Link(gateway, LastingToken(gateway, plan.kept_token))
        self._changed = threading.Condition()
        self._waiting: deque[Submitted] = deque()
        self._sending: set[PoolFuture] = set()
        self._sent: list[Sent] = []
        self._thread: threading.Thread | None = None
        self._closed = False
        self._broken: WorkerSetupError | None = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> PoolFuture:
        """Raises InvalidInputError where the function or what it is called with cannot be pickled."""
        return self._add([self._called(fn, [(args, kwargs)], is_chunk=False)])[0]

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """As `Executor.map`: results in the order of the arguments. `chunksize` calls are one task."""
        size = given.whole(chunksize, "chunksize", 1)
        most = None if buffersize is None else given.whole(buffersize, "buffersize", 1)
        seconds = given.timeout(timeout)
        calls: Iterator[_Call] = ((args, {}) for args in zip(*iterables, strict=False))
        chunks = iter(lambda: list(itertools.islice(calls, size)), [])
        made = (self._called(fn, chunk, is_chunk=True) for chunk in chunks)
        first = self._add(list(itertools.islice(made, most)))
        return self._results(deque(first), made, None if seconds is None else monotonic() + seconds)

    def _results(
        self, futures: deque[PoolFuture], more: Iterator[Submitted], until: float | None
    ) -> Iterator[Any]:
        try:
            while futures:
                left = None if until is None else until - monotonic()
                values = futures[0].result(left)
                futures.popleft()
                futures += self._add(list(itertools.islice(more, 1)))
                yield from values
        finally:
            for future in futures:
                future.cancel()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001
        """No more calls. `wait`: until all have ended. `cancel_futures`: what has not begun never does."""
        with self._changed:
            self._closed = True
            futures = self._futures() if cancel_futures else []
            self._changed.notify_all()
        in_threads([future.cancel for future in futures], work.RESULTS_AT_ONCE)
        thread = self._thread
        if wait and thread is not None and thread is not threading.current_thread():
            thread.join()
        with self._changed:
            if self._thread is None:
                self._release()

    def __repr__(self) -> str:
        with self._changed:
            waiting, sent = len(self._waiting), sum(len(each.open) for each in self._sent)
        closed = ", closed" if self._closed else ""
        where = self._link.gateway.endpoint.address
        return f"<PoolExecutor {where}, {waiting} to be sent, {sent} in the pool{closed}>"

    # -- what callers' threads do ----------------------------------------------------------------------

    def _called(self, fn: Callable[..., Any], calls: list[_Call], *, is_chunk: bool) -> Submitted:
        check_function(fn)
        name = name_of(fn)
        with own_modules_by_value():
            try:
                item = Pickled(dumps((fn, calls, is_chunk), f"what {name} is called with"))
            except InvalidInputError:
                dumps(fn, f"the function {name}")
                raise
        return Submitted(PoolFuture(self._cancel), item, name, sources_of(fn))

    def _add(self, calls: list[Submitted]) -> list[PoolFuture]:
        with self._changed:
            if self._broken is not None:
                raise WorkerSetupError(str(self._broken)) from self._broken
            if self._closed:
                raise ExecutorClosedError
            self._waiting += calls
            if calls and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="hivemind-executor")
                self._thread.start()
            self._changed.notify_all()
        return [call.future for call in calls]

    def _cancel(self, future: PoolFuture) -> bool:
        with self._changed:
            for call in self._waiting:
                if call.future is future:
                    self._waiting.remove(call)
                    return future.cancel_here()
            if threading.current_thread() is self._thread:
                return False  # in a callback of a future that ended while others were being sent
            self._changed.wait_for(lambda: future not in self._sending)
        with future.deciding:
            if future.done() or future.running() or not future.task_id:
                return future.cancelled()
            try:
                task = self._link.do(work.look(future.task_id))
                if task.state not in _NOT_BEGUN:
                    return False
                self._link.do(work.stop(future.task_id))
            except ClientError:
                return False
            return future.cancel_here()

    def _futures(self) -> list[PoolFuture]:
        return [
            *(call.future for call in self._waiting),
            *self._sending,
            *(future for each in self._sent for future in list(each.open.values())),
        ]

    # -- what its own thread does ----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            with self._changed:
                self._thread, futures = None, self._futures()
                self._waiting.clear()
                self._sent.clear()
            for future in futures:
                future.ends(error)
            raise

    def _work(self) -> None:
        waiting = work.Waiting(None)
        while True:
            calls = self._gathered()
            if calls:
                self._send(calls)
                waiting = work.Waiting(None)
                waiting.answered()
            for sent in list(self._sent):
                if self._look(sent, waiting):
                    waiting.answered(news=True)
            with self._changed:
                self._sent = [sent for sent in self._sent if sent.open]
                if not self._waiting and not self._sent:
                    self._thread = None
                    if self._closed:
                        self._release()
                    return
                if not (self._waiting and self._room()):
                    self._changed.wait(waiting.pause(""))

    def _release(self) -> None:
        """Nothing is left to be done, and nothing will come."""
        self._link.gateway.close()

    def _room(self) -> int:
        """So many more calls may be in the pool."""
        in_pool = sum(len(sent.open) for sent in self._sent)
        return min(_MOST_CALLS, self._most_open - in_pool) if self._most_open else _MOST_CALLS

    def _gathered(self) -> list[Submitted]:
        """What is sent next; who is still giving more is waited for, a moment."""
        with self._changed:
            for _ in range(_GATHER_TIMES):
                before = len(self._waiting)
                if not before or before >= self._room() or self._closed:
                    break
                self._changed.wait(_GATHER_SECONDS)
                if len(self._waiting) == before:
                    break
            calls: list[Submitted] = []
            room, size = self._room(), 0
            while self._waiting and len(calls) < room and (not calls or size < _MOST_BYTES):
                calls.append(self._waiting.popleft())
                size += len(calls[-1].item)
            self._sending = {call.future for call in calls}
        return calls

    def _send(self, calls: list[Submitted]) -> None:
        sources = {name: lines for call in calls for name, lines in call.sources.items()}
        name = self._needs.name or calls[0].name
        made = FunctionWork("executor", self._setup, [call.item for call in calls], name, sources)
        sent: Sent | None = None
        try:
            if self._needs.replicas > 1:
                sent = SentTasks(self._sent_singly(calls, sources))
            else:
                job_id = new_job_id()
                self._link.do(work.send_items(made, self._needs, job_id, 0))
                sent = SentJob(job_id, calls)
        except BaseException as error:  # noqa: BLE001  whoever waits for it is told
            for call in calls:
                call.future.ends(error)
        with self._changed:
            self._sending = set()
            if sent is not None:
                self._sent.append(sent)
            self._changed.notify_all()

    def _sent_singly(self, calls: list[Submitted], sources: dict[str, list[str]]) -> dict[str, Submitted]:
        ids = [new_task_id() for _ in calls]
        parts = [
            work.send_call(
                FunctionWork("executor", self._setup, [call.item], call.name, sources), self._needs, task_id
            )
            for task_id, call in zip(ids, calls, strict=True)
        ]

        def together() -> Any:
            return (yield Together(parts, work.RESULTS_AT_ONCE))

        came: list[Came] = self._link.do(together())
        for call, each in zip(calls, came, strict=True):
            if each.error is not None:
                call.future.ends(each)
        return {
            task_id: call for task_id, call, each in zip(ids, calls, came, strict=True) if each.error is None
        }

    def _look(self, sent: Sent, waiting: work.Waiting) -> bool:
        """Whether something has ended."""
        try:
            ended = self._link.do(sent.look())
            waiting.answered()
        except UnreachableError as error:
            try:
                waiting.unreachable(error)
            except UnreachableError:
                self._give_up(sent, error)
            return False
        except ClientError as error:
            self._give_up(sent, error)
            return False
        took = [partial(self._take, task, sent.open.get(task.task_id)) for task in ended]
        for task, broken in zip(ended, in_threads(took, work.RESULTS_AT_ONCE), strict=True):
            sent.open.pop(task.task_id, None)
            if broken is not None:
                self._break(broken)
        return bool(ended)

    def _take(self, task: TaskInfo, future: PoolFuture | None) -> WorkerSetupError | None:
        if future is None or future.done():
            return None
        try:
            came: Came | BaseException = Came(self._link.do(work.value(task, self._taking)))
        except BaseException as error:  # noqa: BLE001  the function's own, or what kept it from its result
            came = error
        with future.deciding:
            future.ends(came)
        return came if isinstance(came, WorkerSetupError) else None

    def _give_up(self, sent: Sent, error: ClientError) -> None:
        for future in sent.open.values():
            future.ends(error)
        sent.open.clear()

    def _break(self, error: WorkerSetupError) -> None:
        with self._changed:
            self._broken = error
            futures = [future for future in self._futures() if not future.done()]
            self._waiting.clear()
        for future in futures:
            future.ends(WorkerSetupError(str(error)))
        for sent in self._sent:
            self._stop(sent)
            sent.open.clear()

    def _stop(self, sent: Sent) -> None:
        tasks = [task_id for task_id, future in sent.open.items() if future.done()]

        def together() -> Any:
            return (yield Together([work.stop(task_id) for task_id in tasks], work.RESULTS_AT_ONCE))

        if tasks:
            self._link.do(together())
