"""Nodes without an agent are called: `ExecuteTask`, `StopTaskExecution`, and whether a task still runs.

One thread with an event loop holds all calls, however long a worker takes; what touches SQL, Redis and
files goes to a few threads beside it. So the dispatcher's own threads only hand a hint over, and a
worker that hangs holds up nobody. What is dropped here the sweep tells again.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import ParamSpec, TypeVar

import grpc

from dispatcher.push import worker_client
from dispatcher.push.outcomes import PushOutcomes, WorkerReply, silence_seconds
from dispatcher.push.worker_client import WorkerError
from dispatcher.stranger_names import Resolve, resolve
from nodepool.domain.errors import NodePoolError
from nodepool.domain.ids import shown_task
from nodepool.domain.nodes.push_addresses import Address
from nodepool.domain.tasks.reasons import ReasonCode, because
from nodepool.domain.tasks.states import AttemptState, Outcome
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql.attempt_rows import PushedAttempt

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

# At once. A call to execute may bring an answer of the largest message's size.
MAX_CALLS = {"push": 128, "stop": 32, "ask": 32}
_THREADS = 4
_NAME_THREADS = 8
_WATCH_SECONDS = 1.0
_CLOSE_SECONDS = 5.0
# Workers answer a stop when the run has ended, which takes them some seconds.
_STOP_CALL_SECONDS = 20.0


class Pusher:
    """`push`, `stop` and `ask` return at once, from any thread."""

    def __init__(self, effects: PushOutcomes, lookup: Resolve = resolve) -> None:
        self._effects = effects
        self._lookup = lookup
        self._threads = ThreadPoolExecutor(_THREADS, "push-work")
        self._names = ThreadPoolExecutor(_NAME_THREADS, "push-names")
        self._loop = asyncio.new_event_loop()
        # All of these belong to the loop.
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._held: dict[str, asyncio.Future[pb.ExecuteTaskResponse]] = {}
        self._thread = threading.Thread(target=self._run, name="push", daemon=True)
        self._thread.start()

    def push(self, attempt_id: str) -> None:
        self._hand_over("push", attempt_id, self._push)

    def stop(self, attempt_id: str) -> None:
        self._hand_over("stop", attempt_id, self._stop)

    def ask(self, attempt_id: str) -> None:
        self._hand_over("ask", attempt_id, self._ask)

    def close(self) -> None:
        """Ends all calls; a worker that goes on speaks for its task by itself."""
        with suppress(RuntimeError):  # the loop is closed already
            asyncio.run_coroutine_threadsafe(self._end_all(), self._loop).result(_CLOSE_SECONDS + 1)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_SECONDS)
        for threads in (self._threads, self._names):
            threads.shutdown(wait=False, cancel_futures=True)

    # -- in the loop ---------------------------------------------------------------------------------
    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        watch = self._loop.create_task(self._watch())
        try:
            self._loop.run_forever()
        finally:
            watch.cancel()
            self._loop.run_until_complete(asyncio.gather(watch, return_exceptions=True))
            self._loop.close()

    def _hand_over(self, verb: str, attempt_id: str, work: Callable[[str], Awaitable[None]]) -> None:
        def begin() -> None:
            key = (verb, attempt_id)
            if key in self._tasks or sum(1 for of, _ in self._tasks if of == verb) >= MAX_CALLS[verb]:
                return
            task = self._tasks[key] = self._loop.create_task(self._guarded(key, work))
            task.add_done_callback(lambda _: self._tasks.pop(key, None))

        with suppress(RuntimeError):  # closed: the sweep of whoever is there tells it again
            self._loop.call_soon_threadsafe(begin)

    async def _guarded(self, key: tuple[str, str], work: Callable[[str], Awaitable[None]]) -> None:
        try:
            await work(key[1])
        except NodePoolError as error:
            log.warning("the %s of %s is left to the sweep: %s", *key, error)
        except Exception:
            log.exception("the %s of %s failed; the sweep ends it", *key)

    async def _end_all(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE_SECONDS)

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._loop.run_in_executor(self._threads, lambda: work(*args, **kwargs))

    async def _address(self, row: PushedAttempt) -> Address:
        settings = self._effects.settings
        return await worker_client.address_of(
            row.hostname,
            peer=row.peer_address,
            networks=settings.push_networks,
            names=self._names,
            lookup=self._lookup,
            seconds=settings.push_timeout_seconds,
        )

    async def _push(self, attempt_id: str) -> None:
        effects = self._effects
        await asyncio.sleep(await self._in_thread(effects.pause_seconds, attempt_id))
        row = await self._in_thread(effects.take, attempt_id)
        if row is None:
            return
        try:
            address = await self._address(row)
        except NodePoolError as error:
            reason = because(ReasonCode.NOT_CALLED, node=row.node_id, detail=str(error))
            await self._in_thread(effects.end, row.id, Outcome.REFUSED, reason)
            return
        try:
            package = await self._in_thread(effects.package, row)
        except NodePoolError as error:
            reason = because(ReasonCode.PACKAGE_UNREADABLE, detail=str(error))
            await self._in_thread(effects.end, row.id, Outcome.LOST, reason, blameless=True)
            return
        request = worker_client.execute_request(row.node_id, shown_task(row.task_id), package, row.claim)
        del package
        message_mb = effects.settings.grpc_max_message_mb
        async with worker_client.connected(address, row.port, max_message_mb=message_mb) as channel:
            log.info("attempt %s is sent to %s at %s port %d", row.id, row.node_id, address, row.port)
            call = asyncio.ensure_future(worker_client.execute(channel, request))
            sent_bytes = request.ByteSize()
            del request
            try:
                await self._hear(row, call, sent_bytes)
            finally:
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)

    async def _hear(
        self, row: PushedAttempt, call: asyncio.Future[pb.ExecuteTaskResponse], sent_bytes: int
    ) -> None:
        """Wait for the answer for as long as the worker is not silent; then do what it says."""
        effects = self._effects
        seconds = silence_seconds(effects.settings, row.package_bytes)
        await asyncio.wait({call}, timeout=seconds)
        if not call.done():
            state = (await self._in_thread(effects.states, [row.id])).get(row.id)
            if state == AttemptState.ASSIGNED:
                reason = because(ReasonCode.CALL_UNANSWERED_FOR, node=row.node_id, seconds=seconds)
                await self._in_thread(effects.end, row.id, Outcome.LOST, reason)
                self.stop(row.id)  # it may have taken it all the same
                return
            self._held[row.id] = call
            try:
                await asyncio.wait({call})
            finally:
                del self._held[row.id]
        if call.cancelled():
            return  # by the watch: the attempt has ended
        try:
            response = call.result()
        except WorkerError as error:
            if error.is_exhausted(sent_bytes):
                await self._in_thread(effects.exhausted, row.id, str(error), sent_bytes)
            else:
                await self._failed(row, error)
            return
        answer = WorkerReply(response.success, response.message, response.result)
        await self._in_thread(effects.answered, row.id, answer)

    async def _failed(self, row: PushedAttempt, error: WorkerError) -> None:
        effects = self._effects
        state = (await self._in_thread(effects.states, [row.id])).get(row.id)
        if state == AttemptState.RUNNING and error.code in {
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.CANCELLED,
        }:
            # The line broke, and not the run: the worker speaks for it, or the sweep asks it.
            log.warning("the call of attempt %s broke: %s", row.id, error)
        elif state is not None:
            outcome = Outcome.LOST if state == AttemptState.RUNNING else Outcome.REFUSED
            await self._in_thread(
                effects.end,
                row.id,
                outcome,
                because(ReasonCode.CALL_FAILED, node=row.node_id, detail=str(error)),
            )

    async def _watch(self) -> None:
        """A held call keeps its attempt alive; an attempt's end ends its call."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            held = list(self._held)
            if not held:
                continue
            try:
                states = await self._in_thread(self._effects.states, held)
                await self._in_thread(self._effects.words.heard, list(states))
            except NodePoolError as error:
                log.warning("held calls are not looked at: %s", error)
                continue
            for attempt_id in held:
                if attempt_id not in states and attempt_id in self._held:
                    self._held[attempt_id].cancel()

    async def _stop(self, attempt_id: str) -> None:
        row = await self._in_thread(self._effects.stop_target, attempt_id)
        if row is None:
            return
        message_mb = self._effects.settings.grpc_max_message_mb
        try:
            address = await self._address(row)
            async with worker_client.connected(address, row.port, max_message_mb=message_mb) as channel:
                answer = await worker_client.stop(channel, shown_task(row.task_id), _STOP_CALL_SECONDS)
        except NodePoolError as error:
            log.warning("node %s was told to stop task %s: %s", row.node_id, row.task_id, error)
            return
        log.info("node %s was told to stop task %s: %s", row.node_id, row.task_id, answer.success)

    async def _ask(self, attempt_id: str) -> None:
        """A yes is a word for the attempt, and so is a worker that does not know the question."""
        row = await self._in_thread(self._effects.ask_target, attempt_id)
        if row is None:
            return
        settings = self._effects.settings
        try:
            address = await self._address(row)
            async with worker_client.connected(
                address, row.port, max_message_mb=settings.grpc_max_message_mb
            ) as channel:
                answer = await worker_client.ask(
                    channel, row.node_id, shown_task(row.task_id), settings.push_timeout_seconds
                )
            runs = answer.success
        except WorkerError as error:
            runs = error.code is grpc.StatusCode.UNIMPLEMENTED
            log.info("node %s was asked for task %s: %s", row.node_id, row.task_id, error)
        if runs:
            await self._in_thread(self._effects.words.heard, [row.id])
