"""How often one address, and one name, may try to log in or register: a fixed window in Redis.

Where Redis is away everybody is let through, with a line in the log: a pool whose Redis is down should
still let its people in.
"""

from __future__ import annotations

import hashlib
import ipaddress
from urllib.parse import unquote

import redis
import structlog

from nodepool.errors import RateLimitedError

log = structlog.get_logger(__name__)

WINDOW_SECONDS = 60
IPV6_PREFIX_BITS = 64

# KEYS: one counter a window. ARGV: the window's length in seconds. Returns the counters' largest.
_COUNT = """
local most = 0
for _, key in ipairs(KEYS) do
  local count = redis.call('INCR', key)
  if count == 1 or redis.call('TTL', key) < 0 then
    redis.call('EXPIRE', key, ARGV[1])
  end
  most = math.max(most, count)
end
return most
"""


class RateLimit:
    """Counts attempts in Redis; raises RateLimitedError over the limit of a minute."""

    def __init__(self, client: redis.Redis, most_per_minute: int) -> None:
        self._count = client.register_script(_COUNT)
        self._most = most_per_minute

    def check(self, verb: str, peer: str, username: str) -> None:
        """Counts one attempt of `verb` ("login", "register") from the gRPC peer for the name."""
        keys = [f"rate:{verb}:peer:{peer_address(peer)}", f"rate:{verb}:name:{_short(username)}"]
        try:
            count = int(self._count(keys=keys, args=[WINDOW_SECONDS]))
        except redis.RedisError as error:
            log.warning("attempts are not counted", action="rate_limit.open", reason=repr(error))
            return
        if count > self._most:
            raise RateLimitedError(f"too many attempts to {_WORDS[verb]}; try again in a minute")


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
