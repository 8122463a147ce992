"""How many calls may be open at one moment: in all, of one address, of one account, and of strangers.

A stranger is who has not shown a token yet. This file counts and knows no gRPC; it belongs to the
event loop's thread.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from types import TracebackType

from nodepool.domain.errors import RateLimitedError
from nodepool.domain.limit_names import LimitName
from nodepool.settings import Settings

# Strangers get this part of what everybody gets.
_STRANGERS_PART = 4
# Long calls of strangers, such as watching the pool's health: of one address, and in all.
_STRANGERS_STREAMS, _ALL_STRANGERS_STREAMS = 8, 64

# What is counted: ("address", "10.0.0.1"), ("account", "7"), ("all", "").
_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class CallLimits:
    in_all: int
    per_address: int
    per_account: int
    streams_per_account: int

    @classmethod
    def from_settings(cls, settings: Settings) -> CallLimits:
        return cls(
            settings.grpc_max_calls,
            settings.grpc_max_calls_per_address,
            settings.grpc_max_calls_per_account,
            settings.grpc_max_streams_per_account,
        )


class OpenCalls:
    """Who has how many calls open. Every call holds a Ticket from its arrival to its end."""

    def __init__(self, limits: CallLimits) -> None:
        self._limits = limits
        self._open: Counter[_Key] = Counter()

    def ticket(self, peer: str, address: str, *, stream: bool) -> Ticket:
        return Ticket(self, self._limits, peer, address, stream=stream)

    def count(self, kind: str, of: str = "") -> int:
        return self._open[kind, of]

    def take(self, key: _Key, most: int, words: str) -> None:
        if self._open[key] >= most:
            raise RateLimitedError(
                f"too many {words} at once, at most {most}; try again in a second", limit=LimitName.OPEN_CALLS
            )
        self._open[key] += 1

    def give(self, key: _Key) -> None:
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]


class Ticket:
    """One open call, as a context manager. Raises RateLimitedError where there may be no more."""

    __slots__ = ("_address", "_calls", "_held", "_limits", "_of_stranger", "_peer", "_stream", "_taken")

    def __init__(
        self, calls: OpenCalls, limits: CallLimits, peer: str, address: str, *, stream: bool
    ) -> None:
        self._calls, self._limits = calls, limits
        self._peer, self._address, self._stream = peer, address, stream
        self._taken: list[_Key] = []
        self._of_stranger: list[_Key] = []
        self._held = ExitStack()

    def __enter__(self) -> Ticket:
        try:
            # One connection has no bound of its own; it is asked for when connections have to end.
            self._take(("peer", self._peer), self._limits.in_all, "calls")
            self._take(("all", ""), self._limits.in_all, "calls")
            self._take(("address", self._address), self._limits.per_address, "calls of your address")
        except RateLimitedError:
            self._give_all()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_all()

    def hold(self, what: AbstractContextManager[None]) -> None:
        """Until the call ends."""
        self._held.enter_context(what)

    def is_strangers(self) -> None:
        """Nobody knows yet who calls."""
        limits = self._limits
        of_address = max(1, limits.per_address // _STRANGERS_PART)
        in_all = max(1, limits.in_all // _STRANGERS_PART)
        words = "calls without a token of your address"
        self._take_as_stranger(("stranger", self._address), of_address, words)
        self._take_as_stranger(("strangers", ""), in_all, "calls without a token")
        if self._stream:
            words = "long calls without a token"
            self._take_as_stranger(("stranger streams", self._address), _STRANGERS_STREAMS, words)
            self._take_as_stranger(("strangers streams", ""), _ALL_STRANGERS_STREAMS, words)

    def is_of(self, user_id: int) -> None:
        """The account that calls is known now."""
        for key in self._of_stranger:
            self._calls.give(key)
        self._of_stranger.clear()
        account = str(user_id)
        self._take(("account", account), self._limits.per_account, "calls of your account")
        if self._stream:
            most = self._limits.streams_per_account
            self._take(("account streams", account), most, "streams of your account")

    def _take(self, key: _Key, most: int, words: str) -> None:
        self._calls.take(key, most, words)
        self._taken.append(key)

    def _take_as_stranger(self, key: _Key, most: int, words: str) -> None:
        self._calls.take(key, most, words)
        self._of_stranger.append(key)

    def _give_all(self) -> None:
        self._held.close()
        for key in (*self._taken, *self._of_stranger):
            self._calls.give(key)
        self._taken.clear()
        self._of_stranger.clear()
