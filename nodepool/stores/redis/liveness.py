"""Who was heard of, for the whole fleet at once, and how often nodes report.

One script answers for many nodes, so that a sweep over ten thousand costs the server milliseconds
and the network a few answers. The age of a report is read from what is left of its TTL and never
from what it says, so it is the pool's own clock that counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import redis

from nodepool.stores.redis import keys
from nodepool.stores.redis.client import translated_errors
from nodepool.stores.redis.even_when_full import EvenWhenFull

# A script keeps everybody else waiting: this many nodes take it about a millisecond.
CHUNK_NODES = 500
# The resource of which every attempt takes one.
_OF_EACH = "tasks"

# KEYS: report, assigned and reserved of each node. ARGV: what each attempt takes one of. Returns
# "<PTTL>:<entries>:<sum>" for each, comma separated.
_SCAN = """
local found = {}
for i = 1, #KEYS, 3 do
  local sum = redis.call('HGET', KEYS[i + 2], ARGV[1]) or '0'
  found[#found + 1] = redis.call('PTTL', KEYS[i]) .. ':' .. redis.call('HLEN', KEYS[i + 1]) .. ':' .. sum
end
return table.concat(found, ',')
"""


@dataclass(frozen=True, slots=True)
class NodeHeartbeat:
    """Of one node: the age of its report, infinite without one, how many attempts are listed for it, and for
    how many room is kept, which is the same unless Redis has lost one of the two."""

    age_seconds: float
    listed: int
    reserved: int

    @property
    def agrees(self) -> bool:
        return self.listed == self.reserved


class Liveness:
    """Thread-safe. Raises UnavailableError when Redis cannot be reached."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._always = EvenWhenFull(client)
        self._scan = client.register_script(_SCAN)

    def signs(self, node_ids: Sequence[str]) -> Iterator[NodeHeartbeat]:
        """In the order of the ids."""
        for start in range(0, len(node_ids), CHUNK_NODES):
            chunk = node_ids[start : start + CHUNK_NODES]
            kinds = (keys.report, keys.assigned, keys.reserved)
            names = [kind(node_id) for node_id in chunk for kind in kinds]
            with translated_errors():
                answer = cast(bytes, self._scan(keys=names, args=[_OF_EACH]))
            for entry in answer.split(b","):
                pttl, listed, reserved = entry.split(b":")
                yield NodeHeartbeat(age_of(int(pttl)), int(listed), int(reserved))

    def listed(self, node_ids: Sequence[str]) -> dict[str, set[str]]:
        """The ids of the attempts that are listed for each node."""
        with translated_errors(), self._redis.pipeline(transaction=False) as pipe:
            for node_id in node_ids:
                pipe.hkeys(keys.assigned(node_id))
            answers = pipe.execute() if node_ids else []
        return {
            node_id: {name.decode() for name in names}
            for node_id, names in zip(node_ids, answers, strict=True)
        }

    def node_count(self) -> int:
        with translated_errors():
            return int(self._redis.scard(keys.NODES))

    def gateway_serves(self) -> bool:
        with translated_errors():
            return bool(self._redis.exists(keys.GATEWAY))

    def say_gateway_serves(self) -> None:
        with translated_errors():
            self._always("SET", keys.GATEWAY, "1", "EX", keys.GATEWAY_TTL_SECONDS)

    def probe_write(self) -> None:
        """As what is not written when the broker is full."""
        with translated_errors():
            self._redis.set(keys.WRITTEN, "1", ex=keys.GATEWAY_TTL_SECONDS)

    def operator_released(self) -> bool:
        """Whether an operator says that the nodes which vanished at once are really gone."""
        with translated_errors():
            return bool(self._redis.exists(keys.RELEASE))

    def set_pace(self, period_seconds: float) -> None:
        with translated_errors():
            self._always("SET", keys.PACE, f"{period_seconds:g}", "EX", keys.PACE_TTL_SECONDS)


def age_of(pttl: int) -> float:
    """Seconds since a report was written. Its node cannot set its age, only its TTL: one that is out of
    bounds is no report's."""
    if 0 <= pttl <= keys.REPORT_TTL_SECONDS * 1000:
        return keys.REPORT_TTL_SECONDS - pttl / 1000
    return float("inf")
