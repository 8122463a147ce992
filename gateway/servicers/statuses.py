"""Which gRPC status an error of the pool becomes, and what of it a caller is told."""

from __future__ import annotations

import math

import grpc

from nodepool import observability
from nodepool.domain import errors
from nodepool.stores.redis.client import is_away

# On the way each byte may become three, and clients take 8 KiB of trailers.
MAX_MESSAGE_BYTES = 2000
RETRY_AFTER_MS = "retry-after-ms"

STATUS_OF_ERROR: dict[type[Exception], grpc.StatusCode] = {
    errors.InvalidInputError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.TooLargeError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    errors.StaleAttemptError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.StateConflictError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NotEnoughCptError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.RateLimitedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.StorageBoundError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.StorageFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.BrokerNotTrustedError: grpc.StatusCode.UNAVAILABLE,
    errors.CorruptFileError: grpc.StatusCode.DATA_LOSS,
    errors.StalledError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.BrokenOffError: grpc.StatusCode.CANCELLED,
}


def status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    """The status and message that a caller gets for an error; INTERNAL for what is not in the table."""
    for kind in type(error).__mro__:
        if code := STATUS_OF_ERROR.get(kind):
            return code, str(error).encode(errors="replace")[:MAX_MESSAGE_BYTES].decode(errors="ignore")
    if is_away(error):
        return grpc.StatusCode.UNAVAILABLE, str(errors.UnavailableError())
    return (
        grpc.StatusCode.INTERNAL,
        f"something went wrong in the pool; tell its operator: request {observability.request_id.get()}",
    )


def retry_after(error: Exception) -> tuple[tuple[str, str], ...]:
    """When the same call may be answered, for programs; people read it in the message."""
    seconds = error.retry_after_seconds if isinstance(error, errors.RateLimitedError) else 0.0
    return ((RETRY_AFTER_MS, str(math.ceil(seconds * 1000))),) if seconds > 0 else ()
