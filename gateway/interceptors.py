"""What happens around every call: its request id, who is calling, and what its errors become.

Written to cost little: what depends on the method alone is worked out once for each method.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from contextvars import ContextVar
from typing import Any, TypeAlias

import grpc
import redis
import sqlalchemy.exc
import structlog

from gateway.access import ADMIN_ROLE, REQUIRED, TOKEN_IN_MESSAGE, Access, is_ours
from gateway.standing import FRESH_SECONDS, Standings
from gateway.tokens import Identity, Tokens
from nodepool import errors, observability

__all__ = ["Context", "Gatekeeper", "Identity", "current_identity", "current_identity_or_none", "status_of"]

log = structlog.get_logger(__name__)

BEARER = "bearer "
# On the way each byte may become three, and clients take 8 KiB of trailers.
MAX_MESSAGE_BYTES = 2000

STATUS_OF_ERROR: dict[type[Exception], grpc.StatusCode] = {
    errors.InvalidInputError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.TooLargeError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    errors.StaleAttemptError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ConflictError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NotEnoughCptError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.RateLimitedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.StorageFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.CorruptFileError: grpc.StatusCode.DATA_LOSS,
}
# Drivers' errors that no store has translated; their texts may name hosts and users.
_AWAY = (redis.ConnectionError, redis.TimeoutError, sqlalchemy.exc.OperationalError)

_identity: ContextVar[Identity | None] = ContextVar("identity", default=None)

Behavior = Callable[[Any, Any], Any]
Admit = Callable[[Any, Any], Awaitable[Identity | None]]
# The stubs know parameters that the classes do not have.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


def current_identity() -> Identity:
    """Who is calling; UnauthenticatedError where an anonymous caller was let in."""
    identity = _identity.get()
    if identity is None:
        raise errors.UnauthenticatedError
    return identity


def current_identity_or_none() -> Identity | None:
    """Who is calling; None for an anonymous caller of a PUBLIC or ANONYMOUS_READ call."""
    return _identity.get()


def status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    """The status and message that a caller gets for an error; INTERNAL for what is not in the table."""
    for kind in type(error).__mro__:
        if code := STATUS_OF_ERROR.get(kind):
            return code, str(error).encode(errors="replace")[:MAX_MESSAGE_BYTES].decode(errors="ignore")
    if isinstance(error, _AWAY):
        return grpc.StatusCode.UNAVAILABLE, str(errors.UnavailableError())
    return (
        grpc.StatusCode.INTERNAL,
        f"something went wrong in the pool; tell its operator: request {observability.request_id.get()}",
    )


class Gatekeeper(grpc.aio.ServerInterceptor):
    """Binds the request's context, authenticates, and turns errors into statuses."""

    def __init__(self, tokens: Tokens, standings: Standings, *, allow_anonymous_reads: bool) -> None:
        self._tokens = tokens
        self._standings = standings
        self._allow_anonymous_reads = allow_anonymous_reads
        # At most one entry for each method that the server has.
        self._guarded: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        method = handler_call_details.method
        guarded = self._guarded.get(method)
        if guarded is None:
            handler = await continuation(handler_call_details)
            if handler is None or (not is_ours(method) and REQUIRED.get(method) is Access.PUBLIC):
                return handler
            guarded = self._guarded[method] = _rewrapped(handler, self._guard(method, handler))
        return guarded

    def _guard(self, method: str, handler: Handler) -> Behavior:
        if not handler.response_streaming:
            return self._guard_single(method, handler.stream_unary or handler.unary_unary, handler)
        behavior = handler.stream_stream or handler.unary_stream
        if inspect.isasyncgenfunction(behavior):
            return self._guard_stream(method, behavior, handler)
        return self._guard_single(method, behavior, handler)

    def _guard_single(self, method: str, behavior: Any, handler: Handler) -> Behavior:
        admit, finish = self._admission(method, handler), _finisher(method)
        streaming = handler.request_streaming

        async def guarded(request: Any, context: Context) -> Any:
            started = time.perf_counter()
            try:
                identity = await admit(request, context)
                if streaming and identity is not None:
                    request = self._while_admitted(request, identity)
                return await behavior(request, context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001 - every error becomes a status here
                await _abort(context, method, error)
            finally:
                finish(started)

        return guarded

    def _guard_stream(self, method: str, behavior: Any, handler: Handler) -> Behavior:
        admit, finish = self._admission(method, handler), _finisher(method)

        async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
            started = time.perf_counter()
            try:
                identity = await admit(request, context)
                messages = behavior(request, context)
                if identity is not None:
                    messages = self._while_admitted(messages, identity)
                async with aclosing(messages):
                    async for message in messages:
                        yield message
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001 - every error becomes a status here
                await _abort(context, method, error)
            finally:
                finish(started)

        return guarded

    async def _while_admitted(self, messages: AsyncIterator[Any], identity: Identity) -> AsyncGenerator[Any]:
        """A stream's messages. It ends when its caller is not let in any more, also while none come."""
        ended = object()
        source = aiter(messages)

        async def next_one() -> Any:
            return await anext(source, ended)

        coming = asyncio.create_task(next_one())
        try:
            while True:
                await asyncio.wait({coming}, timeout=FRESH_SECONDS)
                # A database that is away for a moment ends no download.
                with suppress(errors.UnavailableError):
                    await self._standings.admit(identity)
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

    def _admission(self, method: str, handler: Handler) -> Admit:
        """A function that lets a call in, with its identity bound, or raises."""
        required = REQUIRED.get(method)
        in_message = method in TOKEN_IN_MESSAGE and not handler.request_streaming

        async def admit(request: Any, context: Context) -> Identity | None:
            observability.request_id.set(observability.new_request_id())
            _identity.set(None)
            if required is Access.PUBLIC:
                return None
            if required is None:
                raise errors.PermissionDeniedError("this call is not open to anybody")
            token = _the_token(context, request.token if in_message else "")
            if not token:
                self._admit_anonymous(required)
                return None
            named = self._tokens.read(token)
            identity = self._standings.admitted(named) or await self._standings.admit(named)
            if required is Access.ADMIN and identity.role != ADMIN_ROLE:
                raise errors.PermissionDeniedError("only the pool's operator may do this")
            _identity.set(identity)
            return identity

        return admit

    def _admit_anonymous(self, required: Access) -> None:
        if required is not Access.ANONYMOUS_READ:
            raise errors.UnauthenticatedError("this call needs a token: log in first")
        if not self._allow_anonymous_reads:
            raise errors.UnauthenticatedError(
                "this call needs a token: log in first "
                "(the pool's operator can allow it without one: ALLOW_ANONYMOUS_READS)"
            )


def _the_token(context: Context, in_message: str) -> str:
    """The call's token, from its metadata, its message or both alike; "" where there is none."""
    found = in_message
    for key, value in context.invocation_metadata() or ():
        if key != "authorization":
            continue
        text = value if isinstance(value, str) else value.decode("ascii", "replace")
        if text[: len(BEARER)].lower() != BEARER:
            raise errors.UnauthenticatedError(
                "the authorization metadata must be 'Bearer ' and the token: log in again"
            )
        token = text[len(BEARER) :].strip()
        if not token:
            raise errors.UnauthenticatedError("the token in the metadata is empty: log in again")
        if found and token != found:
            raise errors.UnauthenticatedError(
                "two different tokens came with this call: log in again and send one"
            )
        found = token
    return found


async def _abort(context: Context, method: str, error: Exception) -> None:
    code, message = status_of(error)
    observability.rpcs_refused.labels(method, code.name).inc()
    if code is grpc.StatusCode.INTERNAL:
        log.error("a call failed", action="rpc.failed", method=method, exc_info=error)
    elif code is grpc.StatusCode.UNAVAILABLE:
        log.warning("a part of the pool is away", action="rpc.unavailable", method=method, reason=repr(error))
    else:
        log.debug("a call was refused", action="rpc.refused", method=method, code=code.name, reason=message)
    await context.abort(code, message)


def _finisher(method: str) -> Callable[[float], None]:
    seconds = observability.rpc_seconds.labels(method)

    def finish(started: float) -> None:
        seconds.observe(time.perf_counter() - started)

    return finish


def _rewrapped(handler: Handler, behavior: Behavior) -> Handler:
    make: Any = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[bool(handler.request_streaming), bool(handler.response_streaming)]
    made: Handler = make(behavior, handler.request_deserializer, handler.response_serializer)
    return made
