"""What happens around every call: who calls, whether they may, their messages, and what errors become.

A call is let in before its body is read. gRPC reads the message of a unary call before it asks anybody,
so every handler here is made one of a stream, which reads when it is told to: on the wire they are the
same. What depends on the method alone is worked out once for each method.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, aclosing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import grpc
import structlog

from gateway.admission import connections, message_limits
from gateway.admission.arrival import Arrival, Context, Gate, Pause
from gateway.admission.message_reader import MessageReader
from gateway.admission.open_calls import OpenCalls, Ticket
from gateway.auth.access import REQUIRED, TOKEN_IN_MESSAGE, UPLOAD, Access, token_in_message
from gateway.auth.account_status import FRESH_SECONDS
from gateway.auth.callers import (
    Callers,
    check_same,
    client_of_call,
    current_client,
    identity_of_call,
    token_in,
)
from gateway.auth.tokens import CallerIdentity
from gateway.proxies.client_addresses import ClientAddresses
from gateway.servicers.statuses import retry_after, status_of
from gateway.servicers.told_limits import tell_limit
from nodepool import observability
from nodepool.domain import errors
from nodepool.metrics import catalogue
from nodepool.settings import Settings

log = structlog.get_logger(__name__)

# How long one message of who is known may take.
_MESSAGE_SECONDS, _LARGE_MESSAGE_SECONDS = 30.0, 600.0
# A stranger who asks for the protocol's description asks again and again on one stream.
_STRANGERS_STREAM_SECONDS, _STRANGERS_LONGEST_SECONDS = 30.0, 300.0
_OK, _CANCELLED = grpc.StatusCode.OK.name, grpc.StatusCode.CANCELLED.name

Behavior = Callable[[Any, Any], Any]
# The stubs know parameters that the class does not have.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


@dataclass(frozen=True, slots=True)
class _Method:
    """What is known of a method before anybody calls it."""

    name: str
    required: Access
    token_in_message: bool
    handler: Handler
    limit: int
    count_code: Callable[[str], None]
    observe: Callable[[float], None]

    @property
    def is_stream(self) -> bool:
        return bool(self.handler.request_streaming or self.handler.response_streaming)

    @property
    def behavior(self) -> Behavior:
        handler = self.handler
        found: Any = handler.unary_unary or handler.unary_stream
        found = found or handler.stream_unary or handler.stream_stream
        behavior: Behavior = found
        return behavior


class Gatekeeper(grpc.aio.ServerInterceptor):
    """Binds the request's context, lets calls in, reads their messages, and turns errors into statuses."""

    def __init__(
        self,
        settings: Settings,
        callers: Callers,
        calls: OpenCalls,
        reader: MessageReader,
        addresses: ClientAddresses,
        gates: Sequence[Gate] = (),
        pause_after: Pause = lambda _arrival, _size_bytes: 0.0,
    ) -> None:
        self._settings = settings
        self._callers = callers
        self._calls = calls
        self._reader = reader
        self._addresses = addresses
        self._gates = tuple(gates)
        self._pause_after = pause_after
        self._longest_seconds = message_limits.longest_stream_seconds(settings)
        # At most one entry for each method that the server has.
        self._guarded: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        name = handler_call_details.method
        guarded = self._guarded.get(name)
        if guarded is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            required = REQUIRED.get(name)
            if required is None:
                return _closed(name)
            method = _Method(
                name=name,
                required=required,
                token_in_message=name in TOKEN_IN_MESSAGE,
                handler=handler,
                limit=message_limits.limit_of(name, self._settings),
                count_code=partial(_count_code, name),
                observe=catalogue.rpc_seconds.labels(name).observe,
            )
            guarded = self._guarded[name] = self._guard(method)
        return guarded

    def _guard(self, method: _Method) -> Handler:
        handler = method.handler

        async def single(_: Any, context: Context) -> Any:
            return await self._call(method, context, self._answer)

        async def several(_: Any, context: Context) -> None:
            await self._call(method, context, self._answer_stream)

        async def large(_: Any, context: Context) -> None:
            await self._call(method, context, self._answer_large)

        if method.name in message_limits.LARGE_ANSWERS:
            return grpc.stream_stream_rpc_method_handler(large, None, handler.response_serializer)
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(several, None, handler.response_serializer)
        return grpc.stream_unary_rpc_method_handler(single, None, handler.response_serializer)

    # -- one call ------------------------------------------------------------------------------------
    async def _call(self, method: _Method, context: Context, answer: Callable[..., Awaitable[Any]]) -> Any:
        started = time.perf_counter()
        observability.request_id.set(observability.new_request_id())
        identity_of_call.set(None)
        try:
            peer = connections.plain_peer(context.peer())
            client = self._addresses.of_call(peer, context.invocation_metadata)
            client_of_call.set(client)
            with self._calls.ticket(peer, client.counted, stream=method.is_stream) as ticket:
                answered = await answer(method, context, peer, ticket)
        except grpc.aio.AbortError:
            raise
        except asyncio.CancelledError:
            method.count_code(_CANCELLED)
            raise
        except grpc.aio.InternalError:
            method.count_code(_CANCELLED)
            raise asyncio.CancelledError from None  # the client is gone
        except Exception as error:  # noqa: BLE001 - every error becomes a status here
            await _abort(context, method.name, error)
        else:
            method.count_code(_OK)
            return answered
        finally:
            method.observe(time.perf_counter() - started)

    async def _answer(self, method: _Method, context: Context, peer: str, ticket: Ticket) -> Any:
        request, _ = await self._admit(method, context, peer, ticket)
        return await method.behavior(request, context)

    async def _answer_large(self, method: _Method, context: Context, peer: str, ticket: Ticket) -> None:
        """One answer, which gRPC would keep for as long as its client does not read it."""
        request, identity = await self._admit(method, context, peer, ticket)
        answer = await method.behavior(request, context)
        with self._reader.budget.hold(0 if identity is None else identity.user_id, answer.ByteSize()):
            await self._write(context, peer, answer)

    async def _answer_stream(self, method: _Method, context: Context, peer: str, ticket: Ticket) -> None:
        request, identity = await self._admit(method, context, peer, ticket)
        answers = method.behavior(request, context)
        if asyncio.iscoroutine(answers):
            await answers  # it writes by itself
            return
        if identity is not None:
            answers = self._while_admitted(answers, identity)
        async with aclosing(answers):
            async for message in answers:
                await self._write(context, peer, message)

    async def _write(self, context: Context, peer: str, message: Any) -> None:
        seconds = self._reader.stall_seconds
        try:
            async with asyncio.timeout(seconds):
                await context.write(message)
        except TimeoutError:
            # A status cannot get past what is not read, so the connection ends with it.
            self._reader.end_connection(peer)
            raise errors.StalledError(f"nothing was read for {seconds:g} seconds") from None

    # -- letting in ----------------------------------------------------------------------------------
    async def _admit(
        self, method: _Method, context: Context, peer: str, ticket: Ticket
    ) -> tuple[Any, CallerIdentity | None]:
        """The call's message, or its stream of messages, and who calls."""
        token = "" if method.required is Access.PUBLIC else token_in(context.invocation_metadata())
        if token:
            identity = await self._identify(method, token, ticket)
            await self._pass_gates(method, peer, identity)
        else:
            identity = None
            ticket.is_strangers()
            if method.required is Access.PUBLIC:
                await self._pass_gates(method, peer, None)
            elif not method.token_in_message:
                self._callers.admit_anonymous(method.required)
                await self._pass_gates(method, peer, None)
        if method.handler.request_streaming:
            return self._requests(method, context, peer, identity), identity
        request = await self._one(method, context, peer, identity, ticket)
        if method.token_in_message:
            told = token_in_message(method.name, request, token)
            check_same(token, told)
            if identity is None:
                identity = await self._of_message(method, told, peer, ticket)
        return request, identity

    async def _identify(self, method: _Method, token: str, ticket: Ticket) -> CallerIdentity:
        identity = await self._callers.identify(token, method.required, method.name)
        identity_of_call.set(identity)
        ticket.is_of(identity.user_id)
        return identity

    async def _of_message(
        self, method: _Method, token: str, peer: str, ticket: Ticket
    ) -> CallerIdentity | None:
        identity = await self._identify(method, token, ticket) if token else None
        if identity is None:
            self._callers.admit_anonymous(method.required)
        await self._pass_gates(method, peer, identity)
        return identity

    async def _pass_gates(self, method: _Method, peer: str, identity: CallerIdentity | None) -> None:
        for gate in self._gates:
            await gate(Arrival(method.name, peer, current_client().counted, identity))

    # -- messages ------------------------------------------------------------------------------------
    async def _one(
        self, method: _Method, context: Context, peer: str, identity: CallerIdentity | None, ticket: Ticket
    ) -> Any:
        if identity is None:
            seconds = min(message_limits.strangers_seconds(method.name), self._reader.stall_seconds)
        else:
            seconds = (
                _MESSAGE_SECONDS if method.limit <= message_limits.SMALL_BYTES else _LARGE_MESSAGE_SECONDS
            )
        try:
            raw = await self._read(method, context, peer, identity, seconds)
        except errors.TooLargeError:
            if identity is not None or method.name != UPLOAD:
                raise
            raise errors.UnauthenticatedError(
                "a package as large as this needs the token in the metadata: log in first"
            ) from None
        if raw is None:
            await check_alive(context)
            raise errors.InvalidInputError("the call has no message")
        ticket.hold(self._held(identity, len(raw)))
        return message_limits.parsed(raw, method.handler.request_deserializer)

    def _requests(
        self, method: _Method, context: Context, peer: str, identity: CallerIdentity | None
    ) -> AsyncIterator[Any]:
        """The stream's messages, up to its client's word that it is all; else BrokenOffError."""
        requests = self._each(method, context, peer, identity)
        return requests if identity is None else self._while_admitted(requests, identity)

    async def _each(
        self, method: _Method, context: Context, peer: str, identity: CallerIdentity | None
    ) -> AsyncGenerator[Any]:
        stall, longest = self._reader.stall_seconds, self._longest_seconds
        if identity is None:
            stall, longest = min(stall, _STRANGERS_STREAM_SECONDS), _STRANGERS_LONGEST_SECONDS
        arrival = Arrival(method.name, peer, current_client().counted, identity)
        until = time.monotonic() + longest
        while time.monotonic() < until:
            raw = await self._read(method, context, peer, identity, stall)
            if raw is None:
                await check_alive(context)
                return
            with self._held(identity, len(raw)):
                yield message_limits.parsed(raw, method.handler.request_deserializer)
            if pause := self._pause_after(arrival, len(raw)):
                await asyncio.sleep(pause)
        raise errors.StalledError(f"the stream has taken longer than the {longest:g} seconds that it may")

    def _held(self, identity: CallerIdentity | None, size_bytes: int) -> AbstractContextManager[None]:
        """A message is in memory until its call, or its stream, is done with it."""
        return self._reader.budget.hold(0 if identity is None else identity.user_id, size_bytes)

    async def _read(
        self, method: _Method, context: Context, peer: str, identity: CallerIdentity | None, seconds: float
    ) -> bytes | None:
        limit = method.limit if identity else min(method.limit, message_limits.strangers_bytes(method.name))
        account = 0 if identity is None else identity.user_id
        raw = await self._reader.read(context, peer, account, limit, seconds)
        if raw is not None and len(raw) > limit:
            raise message_limits.too_large(method.name, limit)
        return raw

    async def _while_admitted(
        self, source: AsyncIterator[Any], identity: CallerIdentity
    ) -> AsyncGenerator[Any]:
        """A stream's messages. It ends when its caller is not let in any more, also while none come."""
        ended = object()

        async def next_one() -> Any:
            return await anext(source, ended)

        coming = asyncio.create_task(next_one())
        try:
            while True:
                await asyncio.wait({coming}, timeout=FRESH_SECONDS)
                # A database that is away for a moment ends no download.
                with suppress(errors.UnavailableError):
                    await self._callers.standings.admit(identity)
                if not coming.done():
                    continue
                message = coming.result()
                if message is ended:
                    return
                yield message
                coming = asyncio.create_task(next_one())
        finally:
            coming.cancel()
            await asyncio.wait({coming})
            if not coming.cancelled():
                coming.exception()  # known already, or of no interest any more
            if isinstance(source, AsyncGenerator):
                await source.aclose()


def _closed(method: str) -> Handler:
    """Of a method that is not in the table."""

    async def refuse(_: Any, context: Context) -> None:
        await _abort(context, method, errors.PermissionDeniedError("this call is not open to anybody"))

    return grpc.stream_stream_rpc_method_handler(refuse)


async def check_alive(context: Context) -> None:
    """Raises BrokenOffError for a stream that ended because its client, or the connection, is gone.

    gRPC ends both alike. Where the client said that it was all, an answer can still be begun.
    """
    try:
        await context.send_initial_metadata(())
    except grpc.aio.InternalError:
        raise errors.BrokenOffError from None


async def _abort(context: Context, method: str, error: Exception) -> None:
    code, message = status_of(error)
    _count_code(method, code.name)
    if code is grpc.StatusCode.INTERNAL:
        log.error("a call failed", action="rpc.failed", method=method, exc_info=error)
    elif code is grpc.StatusCode.UNAVAILABLE:
        log.warning("a part of the pool is away", action="rpc.unavailable", method=method, reason=repr(error))
    else:
        log.debug("a call was refused", action="rpc.refused", method=method, code=code.name, reason=message)
    tell_limit(method, error)
    _let_go(error)
    try:
        await context.abort(code, message, trailing_metadata=retry_after(error))
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None  # the client is gone


def _let_go(error: BaseException) -> None:
    """Of the frames that it came through, and so of the message: gRPC's own error and it refer to each other,
    and both stay until the collector comes by."""
    reached: BaseException | None = error
    while reached is not None:
        reached.__traceback__ = None
        reached = reached.__context__


def _count_code(method: str, code: str) -> None:
    """Only methods that the server has come here, so nobody makes up a name."""
    catalogue.rpcs.labels(method, code).inc()
