"""The lines of an SDK or an agent to the gateways of its pool: a gRPC channel that goes on with the next.

Each gateway has a channel of its own, with TLS for its own name: gRPC's own means, several addresses in one
target, would check every certificate against one name. Stubs are made once, of this channel; each call goes
to the gateway that is spoken to at that moment. Knows neither what is called nor when it may be repeated.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import grpc

from nodepool.domain.gateway_choice import GatewayChoice

# One that calls go to, and those before it with calls that were left open.
MOST_LINES = 3


@dataclass(frozen=True, slots=True, eq=False)
class GatewayLine:
    """A connection to one gateway."""

    address: str
    channel: grpc.Channel
    methods: dict[tuple[str, str], Any] = field(default_factory=dict)


class GatewayLines(grpc.Channel):
    """Thread-safe. Whoever calls says afterwards how it went: `answered`, `unreachable` or `silent`."""

    def __init__(
        self,
        addresses: Sequence[str],
        open_line: Callable[[str], grpc.Channel],
        *,
        first: str = "",
        clock: Callable[[], float] = time.monotonic,
        close_line: Callable[[grpc.Channel], None] | None = None,
    ) -> None:
        """`open_line` makes a channel to an address, and raises what is wrong with it. `first` is one that is
        known to work."""
        self.addresses = tuple(addresses)
        order = random.sample(self.addresses, len(self.addresses))
        self._choice = GatewayChoice(sorted(order, key=lambda address: address != first))
        self._open, self._clock = open_line, clock
        self._close = close_line or (lambda channel: channel.close())
        self._lock = threading.Lock()
        self._lines: deque[GatewayLine] = deque()
        self._answered_at = float("-inf")
        self._closed = False
        self._connect()

    @property
    def current(self) -> GatewayLine:
        """Where the next call goes."""
        with self._lock:
            if not self._closed and self._choice.look_again(self._clock(), random.random()):  # noqa: S311
                self._connect()
            return self._lines[-1]

    @property
    def works(self) -> str:
        """Who answered last, when nothing has failed since; else empty."""
        with self._lock:
            return self._choice.current if self._choice.works else ""

    def answered(self) -> None:
        """By whomever: also a refusal is an answer."""
        with self._lock:
            self._answered_at = self._clock()
            self._choice.worked()

    def unreachable(self, line: GatewayLine) -> bool:
        """The call on `line` failed: go on with the next gateway. Whether one is left to be tried at once."""
        with self._lock:
            if self._closed or self._lines[-1] is not line:
                return not self._closed
            another = self._choice.failed(self._clock(), random.random())  # noqa: S311 - no secret
            if len(self._choice) > 1:
                self._connect()
            return another

    def silent(self, line: GatewayLine, since: float) -> bool:
        """No answer came in the call's time. The line may be dead in a way that pings do not show. Whether
        another gateway is left to be tried at once."""
        with self._lock:
            if self._closed or self._lines[-1] is not line or self._answered_at >= since:
                return False
            another = self._choice.failed(self._clock(), random.random())  # noqa: S311 - no secret
            self._connect()
            return another

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for line in self._lines:
                self._close(line.channel)

    def _connect(self) -> None:
        """What is still open on older lines goes on there; more than a few of them nobody waits for."""
        address = self._choice.current
        self._lines.append(GatewayLine(address, self._open(address)))
        while len(self._lines) > MOST_LINES:
            self._close(self._lines.popleft().channel)

    # -- what stubs are made of --------------------------------------------------------------------
    def unary_unary(self, method: str, *args: Any, **options: Any) -> Any:
        return _FollowingMethod(self, "unary_unary", method, args, options)

    def unary_stream(self, method: str, *args: Any, **options: Any) -> Any:
        return _FollowingMethod(self, "unary_stream", method, args, options)

    def stream_unary(self, method: str, *args: Any, **options: Any) -> Any:
        return _FollowingMethod(self, "stream_unary", method, args, options)

    def stream_stream(self, method: str, *args: Any, **options: Any) -> Any:
        return _FollowingMethod(self, "stream_stream", method, args, options)

    def subscribe(self, callback: Any, try_to_connect: bool | None = False) -> None:  # noqa: FBT001
        self.current.channel.subscribe(callback, bool(try_to_connect))

    def unsubscribe(self, callback: Any) -> None:
        self.current.channel.unsubscribe(callback)

    def __enter__(self) -> GatewayLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self.close()
        return None


class _FollowingMethod:
    """One method of the protocol, on whichever line is the current one when it is called."""

    def __init__(
        self, lines: GatewayLines, kind: str, method: str, args: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        self._lines, self._kind, self._method = lines, kind, method
        self._args, self._options = args, options

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._now()(*args, **options)

    def with_call(self, *args: Any, **options: Any) -> Any:
        return self._now().with_call(*args, **options)

    def future(self, *args: Any, **options: Any) -> Any:
        return self._now().future(*args, **options)

    def _now(self) -> Any:
        line, key = self._lines.current, (self._kind, self._method)
        if key not in line.methods:
            line.methods[key] = getattr(line.channel, self._kind)(self._method, *self._args, **self._options)
        return line.methods[key]
