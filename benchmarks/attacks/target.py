"""What an attacker knows of the pool, and the connections that they make to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import grpc

from nodepool.protocol import nodepool_pb2_grpc as rpc

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """`token` is an ordinary account's; `seconds` is how long an attack may last."""

    address: str
    username: str
    password: str
    token: str
    seconds: float

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"),)


class Line:
    """One connection, with the services' stubs on it."""

    def __init__(self, target: Target) -> None:
        # One connection for each: gRPC shares them between channels otherwise.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", 256 * MIB)]
        self.channel = grpc.insecure_channel(target.address, options=options)
        self.tasks = rpc.MasterNodeServiceStub(self.channel)
        self.nodes = rpc.NodeManagerServiceStub(self.channel)
        self.users = rpc.UserServiceStub(self.channel)

    def close(self) -> None:
        self.channel.close()


def ends(calls: Iterable[grpc.Future[Any]], seconds: float) -> Counter[str]:
    """How the calls ended, by status; those that have not within the time are ended and counted, too."""
    found: Counter[str] = Counter()
    for call in calls:
        try:
            call.result(timeout=seconds)
            found["OK"] += 1
        except grpc.FutureTimeoutError:
            call.cancel()
            found["still open"] += 1
        except grpc.RpcError as error:
            found[error.code().name] += 1
    return found
