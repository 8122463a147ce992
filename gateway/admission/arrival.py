"""A call that is about to be let in, as every check on its way is told of it. Knows no check and no store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from gateway.auth.tokens import CallerIdentity

# The stubs know parameters that the class does not have.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A call before its body is read. `peer` is gRPC's name of who calls; limits go by `address`."""

    method: str
    peer: str
    address: str
    identity: CallerIdentity | None


# Raises what the call is refused with. Asked before the body is read, but where the token is in the
# message: there after that small message.
Gate = Callable[[Arrival], Awaitable[None]]
# How many seconds a stream's next message waits after one of so many bytes.
Pause = Callable[[Arrival, int], float]
