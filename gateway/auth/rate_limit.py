"""How many wrong passwords an address, and a name, may try in a minute: a fixed window in Redis.

An attempt is counted when it begins, and given back when the password was right: right ones never count.
Where Redis is away everybody is let through, with a line in the log: a pool whose Redis is down should
still let its people in.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from urllib.parse import unquote

import structlog

from nodepool.domain import client_address
from nodepool.domain.client_address import ClientAddress
from nodepool.domain.errors import RateLimitedError, UnavailableError
from nodepool.domain.limit_names import LimitName
from nodepool.domain.nodes.push_addresses import Network, is_within
from nodepool.stores.redis import keys as names
from nodepool.stores.redis.client import Client
from nodepool.stores.redis.rate_counters import RateCounters

log = structlog.get_logger(__name__)

WINDOW_SECONDS = 60


@dataclass(frozen=True, slots=True)
class CountedTry:
    """One that was counted."""

    keys: tuple[str, ...] = ()


class RateLimit:
    """Counts attempts in Redis; raises RateLimitedError over the limit of a minute."""

    def __init__(self, client: Client, most_per_minute: int, trusted: tuple[Network, ...] = ()) -> None:
        self._counters = RateCounters(client)
        self._most = most_per_minute
        self._trusted = trusted

    def begin(self, verb: str, address: str, guard: str = "") -> CountedTry:
        """Counts one attempt of `verb` ("login", "register") from the address, and of what is guarded."""
        keys = [names.attempts_at_name(verb, _short(guard))] if guard else []
        if not is_within(address, self._trusted):
            keys.append(names.attempts_of_peer(verb, address))
        if not keys:
            return CountedTry()
        try:
            seconds = self._counters.count(keys, most=self._most, window_seconds=WINDOW_SECONDS)
        except UnavailableError as error:
            log.warning("attempts are not counted", action="rate_limit.open", reason=repr(error.__cause__))
            return CountedTry()
        if seconds:
            raise RateLimitedError(
                f"too many attempts to {_WORDS[verb]}; try again in {seconds} seconds",
                retry_after_seconds=float(seconds),
                limit=_LIMITS[verb],
            )
        return CountedTry(tuple(keys))

    def give_back(self, attempt: CountedTry) -> None:
        """It was no guess."""
        if not attempt.keys:
            return
        try:
            self._counters.give_back(attempt.keys)
        except UnavailableError as error:
            log.warning("an attempt stays counted", action="rate_limit.open", reason=repr(error.__cause__))


_WORDS = {"login": "log in", "register": "register"}
_LIMITS = {"login": LimitName.WRONG_PASSWORDS, "register": LimitName.NEW_ACCOUNTS}


def peer_address(peer: str) -> str:
    """What is counted of a gRPC peer that is a client itself."""
    return counted_of(peer).counted


def counted_of(peer: str) -> ClientAddress:
    """The address of a gRPC peer without its port; others are counted by their kind."""
    kind = unquote(peer).partition(":")[0]
    return ClientAddress.of(client_address.of_peer(peer), _short("unix" if kind == "unix" else peer))


def _short(text: str) -> str:
    """A key's part of bounded length for text of any length."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]
