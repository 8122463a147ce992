"""The connection of `AsyncPool`: the lines, tries and errors of `hivemind.channel`, over grpc.aio in one
event loop.

Opened with its first call, in the loop that makes it, and used in no other.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc

from hivemind.channel import Endpoint, Gateways, Retries, Tries, credentials_of, line_options
from hivemind.errors import ClientError, TimedOutError, UnreachableError
from hivemind.steps import (
    MOST_BEGINNINGS,
    Call,
    Came,
    LocalWork,
    Pause,
    Step,
    Steps,
    Stream,
    Together,
    Upload,
    method_of,
)

_Result = TypeVar("_Result")


class AioGatewayChannel(Gateways):
    """Safe to use from several tasks of its loop."""

    def __init__(self, endpoint: Endpoint, **options: Any) -> None:
        self._closing: set[asyncio.Task[None]] = set()
        super().__init__(endpoint, **options)

    def _open(self, address: str) -> Any:
        options = line_options(address)
        if not self.endpoint.tls:
            return grpc.aio.insecure_channel(address, options=options)
        return grpc.aio.secure_channel(address, credentials_of(self.endpoint), options=options)

    def _close(self, channel: Any) -> None:
        # What is still open on it ends by itself; nobody waits for it here.
        task = asyncio.get_running_loop().create_task(channel.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        self.lines.close()
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def call(
        self,
        method: Any,
        request: Any,
        *,
        with_token: bool = True,
        deadline_seconds: float | None = None,
    ) -> Any:
        """See `GatewayChannel.call`."""
        return await self._attempts(
            lambda: method(
                request,
                timeout=deadline_seconds or self._deadline_seconds,
                metadata=self._metadata() if with_token else (),
            )
        )

    async def upload(
        self, method: Any, requests: Callable[[], Iterator[Any]], *, deadline_seconds: float
    ) -> Any:
        return await self._attempts(
            lambda: method(_aiter(requests()), timeout=deadline_seconds, metadata=self._metadata())
        )

    async def stream(
        self, method: Any, request: Any, *, deadline_seconds: float | None = None
    ) -> AsyncIterator[Any]:
        line = self.lines.current
        try:
            with self._errors(), _closed_lines():
                call = method(request, timeout=deadline_seconds, metadata=self._metadata())
                try:
                    async for answer in call:
                        self.answered()
                        yield answer
                finally:
                    call.cancel()
        except TimedOutError:
            raise
        except UnreachableError as error:
            error.try_at_once = self.lines.unreachable(line)
            raise

    async def _attempts(self, send: Callable[[], Awaitable[Any]]) -> Any:
        tries = Tries(self)
        while True:
            tries.begin()
            try:
                with self._errors(), _closed_lines():
                    answer = await send()
            except ClientError as error:
                await asyncio.sleep(tries.pause_after(error))
            else:
                self.answered()
                return answer


@contextmanager
def _closed_lines() -> Iterator[None]:
    """A call whose line is closed under it is cancelled, and nobody has cancelled its task."""
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise UnreachableError("the connection to the pool was closed") from None


async def _aiter(messages: Iterator[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message


async def drive(gateway: AioGatewayChannel, steps: Steps[_Result]) -> _Result:
    """All steps, one after the other, in this task; what takes this machine's time goes to a thread."""
    try:
        step = next(steps)
        while True:
            try:
                answer = await _done(gateway, step)
            except BaseException as error:  # noqa: BLE001  the steps catch it, or it comes out of them again
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        result: _Result = end.value
        return result
    finally:
        steps.close()


async def _done(gateway: AioGatewayChannel, step: Step) -> Any:
    match step:
        case Call():
            return await gateway.call(
                method_of(gateway, step),
                step.request,
                with_token=step.with_token,
                deadline_seconds=step.deadline_seconds,
            )
        case Upload():
            return await gateway.upload(
                method_of(gateway, step), step.messages, deadline_seconds=step.deadline_seconds
            )
        case Stream():
            return await _streamed(gateway, step)
        case Pause():
            return await asyncio.sleep(step.seconds)
        case LocalWork():
            return await asyncio.to_thread(step.do)
        case Together():
            return await _together(gateway, step)


async def _streamed(gateway: AioGatewayChannel, step: Stream) -> None:
    retries = Retries(gateway)
    for beginning in itertools.count():
        step.taker.begin()
        try:
            async for answer in gateway.stream(
                method_of(gateway, step), step.request, deadline_seconds=step.deadline_seconds
            ):
                step.taker.take(answer)
                if beginning < MOST_BEGINNINGS:
                    retries.worked()
            return step.taker.end()
        except UnreachableError as error:
            await asyncio.sleep(retries.pause_after(error))
    return None


async def _together(gateway: AioGatewayChannel, step: Together) -> list[Came]:
    free = asyncio.Semaphore(step.at_once)

    async def outcome(part: Generator[Any, Any, Any]) -> Came:
        async with free:
            try:
                return Came(await drive(gateway, part))
            except Exception as error:  # noqa: BLE001  the caller looks at each
                return Came(error=error)

    return list(await asyncio.gather(*map(outcome, step.parts)))
