"""How many wrong passwords an address, and a name, may try in a minute: a fixed window in Redis.

An attempt is counted when it begins, and given back when the password was right: right ones never count.
Where Redis is away everybody is let through, with a line in the log: a pool whose Redis is down should
still let its people in.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass
from urllib.parse import unquote

import redis
import structlog

from nodepool.domain.errors import RateLimitedError
from nodepool.domain.nodes.push_addresses import Network, is_within

log = structlog.get_logger(__name__)

WINDOW_SECONDS = 60
IPV6_PREFIX_BITS = 64

# KEYS: one counter a window. ARGV: the window's length in seconds, and the most. Counts one more in each of
# them and returns 0, or counts none and returns after how many seconds the fullest begins anew.
_COUNT = """
local wait = 0
for _, key in ipairs(KEYS) do
  if tonumber(redis.call('GET', key) or '0') >= tonumber(ARGV[2]) then
    wait = math.max(wait, redis.call('TTL', key), 1)
  end
end
if wait > 0 then return wait end
for _, key in ipairs(KEYS) do
  if redis.call('INCR', key) == 1 or redis.call('TTL', key) < 0 then
    redis.call('EXPIRE', key, ARGV[1])
  end
end
return 0
"""
_GIVE_BACK = """
for _, key in ipairs(KEYS) do
  if tonumber(redis.call('GET', key) or '0') > 0 then redis.call('DECR', key) end
end
return 0
"""


@dataclass(frozen=True, slots=True)
class CountedTry:
    """One that was counted."""

    keys: tuple[str, ...] = ()


class RateLimit:
    """Counts attempts in Redis; raises RateLimitedError over the limit of a minute."""

    def __init__(self, client: redis.Redis, most_per_minute: int, trusted: tuple[Network, ...] = ()) -> None:
        self._count = client.register_script(_COUNT)
        self._give_back = client.register_script(_GIVE_BACK)
        self._most = most_per_minute
        self._trusted = trusted

    def begin(self, verb: str, peer: str, guard: str = "") -> CountedTry:
        """Counts one attempt of `verb` ("login", "register") from the gRPC peer, and of what is guarded."""
        address = peer_address(peer)
        keys = [f"rate:{verb}:name:{_short(guard)}"] if guard else []
        if not is_within(address, self._trusted):
            keys.append(f"rate:{verb}:peer:{address}")
        if not keys:
            return CountedTry()
        try:
            seconds = int(self._count(keys=keys, args=[WINDOW_SECONDS, self._most]))
        except redis.RedisError as error:
            log.warning("attempts are not counted", action="rate_limit.open", reason=repr(error))
            return CountedTry()
        if seconds:
            raise RateLimitedError(
                f"too many attempts to {_WORDS[verb]}; try again in {seconds} seconds",
                retry_after_seconds=float(seconds),
            )
        return CountedTry(tuple(keys))

    def give_back(self, attempt: CountedTry) -> None:
        """It was no guess."""
        if not attempt.keys:
            return
        try:
            self._give_back(keys=attempt.keys)
        except redis.RedisError as error:
            log.warning("an attempt stays counted", action="rate_limit.open", reason=repr(error))


_WORDS = {"login": "log in", "register": "register"}


def peer_address(peer: str) -> str:
    """The address of a gRPC peer without its port; of IPv6 the network that one customer has."""
    kind, _, rest = unquote(peer).partition(":")
    host = rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else rest
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return _short(peer if kind not in ("unix",) else "unix")
    if isinstance(address, ipaddress.IPv6Address) and not address.ipv4_mapped:
        return str(ipaddress.ip_network((address, IPV6_PREFIX_BITS), strict=False).network_address)
    return str(address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else address)


def _short(text: str) -> str:
    """A key's part of bounded length for text of any length."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]
