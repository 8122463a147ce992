"""How much of the broker's memory live output may have, and when the rest of the pool is in danger. Pure.

Output is the only thing in the broker that grows with what strangers' programs do, and it can be had again:
the result has all of it. So it gives way, long before reports and reservations are refused.
"""

from __future__ import annotations

from dataclasses import dataclass

# Of the limit: what output may have at the most, above which use it gives way, and above which hints do.
_OUTPUT_SHARE = 0.25
_CROWDED = 0.8
_NEARLY_FULL = 0.9


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """`limit_bytes` is 0 where the server has none. What its replicas and its log take is not in it."""

    used_bytes: int
    limit_bytes: int

    @property
    def is_full(self) -> bool:
        """Nothing that needs more memory is taken."""
        return 0 < self.limit_bytes <= self.used_bytes

    @property
    def is_nearly_full(self) -> bool:
        return 0 < self.limit_bytes * _NEARLY_FULL <= self.used_bytes

    @property
    def over_bytes(self) -> int:
        """What must go so that there is room for everything that matters."""
        return max(0, self.used_bytes - int(self.limit_bytes * _CROWDED)) if self.limit_bytes else 0


def output_room(use: MemoryUse, output_bytes: int, most_bytes: int) -> int:
    """How much all live output together may have, where it has `output_bytes` now."""
    if not use.limit_bytes:
        return most_bytes
    most = min(most_bytes, int(use.limit_bytes * _OUTPUT_SHARE))
    return min(most, max(0, output_bytes - use.over_bytes)) if use.over_bytes else most
