"""Which of a pool's gateways a client or an agent speaks to. Pure: time and chance are passed in.

Any gateway of a pool will do, so one that works is kept. One that failed is asked again last. Some time after
a failure chance decides once more, or those that came back would stay idle for ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.loopback import is_loopback_host

MAX_GATEWAYS = 16
# After a failure, until the others are looked at again: at least so long, and with chance up to twice that.
LOOK_AGAIN_SECONDS = 300.0
_NEVER = float("-inf")
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]@,]+):(?P<port>\d{1,5})")


def gateway_addresses(words: Iterable[str]) -> tuple[str, ...]:
    """`HOST:PORT` of each, in order and once; a word may hold several with commas between.

    Raises InvalidInputError.
    """
    parts = [part.strip() for word in words for part in word.split(",")]
    found = tuple(dict.fromkeys(part for part in parts if part))
    if not found:
        raise InvalidInputError("the gateway's address must be HOST:PORT, and there is none")
    for part in found:
        split_address(part)
    if len(found) > MAX_GATEWAYS:
        raise InvalidInputError(f"{len(found)} gateways are more than the {MAX_GATEWAYS} that are allowed")
    return found


def split_address(address: str) -> tuple[str, int]:
    """Host and port. Raises InvalidInputError."""
    match = _ADDRESS.fullmatch(address)
    if match is None or not 1 <= int(match["port"]) <= 65535:
        raise InvalidInputError(f"the gateway's address must be HOST:PORT, not {address[:100]!r}")
    return match["host"].strip("[]"), int(match["port"])


def is_loopback(address: str) -> bool:
    """Of HOST:PORT."""
    return is_loopback_host(split_address(address)[0])


class GatewayChoice:
    """For one thread. `addresses` come shuffled, or everybody would begin with the same."""

    def __init__(self, addresses: Iterable[str]) -> None:
        self._failed_at = dict.fromkeys(addresses, _NEVER)
        self.current = next(iter(self._failed_at))
        self._look_again_at = float("inf")
        self._failed_in_a_row = 0
        self.works = False  # the current one has answered

    def __len__(self) -> int:
        return len(self._failed_at)

    def worked(self) -> None:
        self._failed_at[self.current] = _NEVER
        self._failed_in_a_row = 0
        self.works = True

    def failed(self, now: float, chance: float) -> bool:
        """Go on with the one that has failed longest ago, if at all; `chance` is 0 to 1.

        Whether one is left that nobody has tried since something worked.
        """
        self._failed_at[self.current] = now
        self._failed_in_a_row += 1
        self.works = False
        if len(self) > 1:
            others = (address for address in self._failed_at if address != self.current)
            self.current = min(others, key=self._failed_at.__getitem__)
            self._look_again_at = now + LOOK_AGAIN_SECONDS * (1 + chance)
        return self._failed_in_a_row % len(self) != 0

    def look_again(self, now: float, chance: float) -> bool:
        """Whether it is time to, and chance chose another; once after a failure."""
        if now < self._look_again_at:
            return False
        self._look_again_at = float("inf")
        rested = [
            address
            for address, failed_at in self._failed_at.items()
            if address == self.current or now - failed_at >= LOOK_AGAIN_SECONDS
        ]
        before, self.current = self.current, rested[min(int(chance * len(rested)), len(rested) - 1)]
        self.works = self.works and self.current == before
        return self.current != before
