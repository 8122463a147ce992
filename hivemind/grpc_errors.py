"""From a gRPC status to one of the client's errors: one table, without holes.

Knows what gRPC says of lines that break, and no connection.
"""

from __future__ import annotations

import grpc

from hivemind.errors import (
    ClientError,
    ConflictError,
    ExistsError,
    LimitError,
    MissingError,
    NotAllowedError,
    NotLoggedInError,
    RefusedError,
    TimedOutError,
    UnreachableError,
    UnsupportedError,
)

STATUS_TO_ERROR: dict[grpc.StatusCode, type[ClientError]] = {
    grpc.StatusCode.UNAUTHENTICATED: NotLoggedInError,
    grpc.StatusCode.PERMISSION_DENIED: NotAllowedError,
    grpc.StatusCode.NOT_FOUND: MissingError,
    grpc.StatusCode.ALREADY_EXISTS: ExistsError,
    grpc.StatusCode.INVALID_ARGUMENT: RefusedError,
    grpc.StatusCode.OUT_OF_RANGE: RefusedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: LimitError,
    grpc.StatusCode.FAILED_PRECONDITION: ConflictError,
    grpc.StatusCode.ABORTED: ConflictError,
    grpc.StatusCode.UNAVAILABLE: UnreachableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: TimedOutError,
    grpc.StatusCode.UNIMPLEMENTED: UnsupportedError,
    # Nobody here cancels a call and waits for it: its gateway did, or what stands between.
    grpc.StatusCode.CANCELLED: UnreachableError,
    grpc.StatusCode.UNKNOWN: ClientError,
    grpc.StatusCode.INTERNAL: ClientError,
    grpc.StatusCode.DATA_LOSS: ClientError,
}
# What gRPC says of a line that broke in the middle of a call, beside UNAVAILABLE.
_BROKEN_OFF = ("rst_stream", "stream removed", "socket closed")
# What it says where the next try would end as this one.
_NOT_PASSING = ("certificate", "wrong_version_number", "expected settings frame")
# How it says that TLS was answered in plain text, and plain text by something else than a gateway.
_IN_THE_CLEAR = "wrong_version_number"
_NOT_HTTP2 = ("failed parsing http/2", "settings frame", "socket closed")
_RETRY_AFTER_MS = "retry-after-ms"
_MAX_DIGITS = 10
_CALLS = (grpc.Call, grpc.aio.AioRpcError)


def client_error(error: grpc.RpcError, address: str, *, tls: bool) -> ClientError:
    # What a call raises is a grpc.Call too, but its type does not say so.
    code = error.code() if isinstance(error, _CALLS) else grpc.StatusCode.UNKNOWN
    details = " ".join((error.details() or "").split()) if isinstance(error, _CALLS) else str(error)
    kind = STATUS_TO_ERROR.get(code, ClientError)
    if kind is UnreachableError or (
        kind is ClientError and any(words in details.casefold() for words in _BROKEN_OFF)
    ):
        return _unreachable(details, address, tls=tls)
    if kind is TimedOutError:
        return TimedOutError(f"the pool at {address} did not answer in time")
    if kind is LimitError:
        return LimitError(details or None, retry_after_seconds=_retry_after(error))
    if kind is ClientError:
        return ClientError(f"the pool failed ({code.name}): {details or 'no details'}")
    return kind(details or None)


def _retry_after(error: grpc.RpcError) -> float:
    """When the pool says that the same call may be answered; 0 where it does not say, or not sensibly."""
    text = ""
    if isinstance(error, _CALLS):
        for key, value in error.trailing_metadata() or ():
            text = str(value) if key == _RETRY_AFTER_MS else text
    return int(text) / 1000 if text.isascii() and text.isdigit() and len(text) < _MAX_DIGITS else 0.0


def _unreachable(details: str, address: str, *, tls: bool) -> UnreachableError:
    lowered = details.casefold()
    hint: str | None = None
    if _IN_THE_CLEAR in lowered:
        details = "it answers in plain text, and TLS was asked for"
        hint = "use --no-tls where nobody else can read the line, or see that its TLS is on"
    elif tls and any(words in lowered for words in ("certificate", "ssl", "handshake")):
        hint = "is --ca-file its authority's, and does its certificate have this name?"
    elif not tls and any(words in lowered for words in _NOT_HTTP2):
        hint = "is it a pool's gateway, and does it use TLS? Then --tls is missing"
    message = f"the pool at {address} cannot be reached: {details or 'no details'}"
    error = UnreachableError(message, hint=hint)
    error.passing = not any(words in lowered for words in _NOT_PASSING)
    error.never_sent = "failed to connect to" in lowered or "dns resolution failed" in lowered
    return error
