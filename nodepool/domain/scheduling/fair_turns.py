"""Whose turn it is: waiting work of many accounts, served in turns, with bounds. Pure.

An account is whatever work is counted by: a user, an address, nobody. It must know neither threads nor
processes; who uses it from several threads locks it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from nodepool.domain.errors import RateLimitedError
from nodepool.domain.limit_names import LimitName

Work = TypeVar("Work")
RETRY_AFTER_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueBounds:
    """`width` runs at once, `of_one` of them of one account; more waits, up to these numbers."""

    width: int
    of_one: int
    waiting_of_one: int
    waiting: int


class FairQueue(Generic[Work]):
    """add() says whether the work begins now; done() gives the work that begins in its place."""

    def __init__(self, bounds: QueueBounds) -> None:
        self._bounds = bounds
        self._running: dict[Hashable, int] = {}
        self._at_once = 0
        self._waiting: OrderedDict[Hashable, deque[Work]] = OrderedDict()
        self._count = 0

    @property
    def waiting(self) -> int:
        return self._count

    def begin(self, account: Hashable) -> bool:
        """Whether work of the account may begin now; then it counts as running."""
        if not self._has_room(account) or account in self._waiting:
            return False
        self._start(account)
        return True

    def wait(self, account: Hashable, work: Work) -> None:
        """Raises RateLimitedError where too much waits already."""
        mine = self._waiting.get(account)
        if mine is not None and len(mine) >= self._bounds.waiting_of_one:
            raise RateLimitedError(
                f"{len(mine)} of your requests wait for their turn already; send fewer at once, and try "
                "again in a moment",
                retry_after_seconds=RETRY_AFTER_SECONDS,
                limit=LimitName.HEAVY_WORK,
            )
        if self._count >= self._bounds.waiting:
            raise RateLimitedError(
                "the pool is too busy for this just now; try again in a moment",
                retry_after_seconds=RETRY_AFTER_SECONDS,
                limit=LimitName.HEAVY_WORK,
            )
        if mine is None:
            mine = self._waiting[account] = deque()
        mine.append(work)
        self._count += 1

    def done(self, account: Hashable) -> None:
        """Work of the account has ended."""
        self._at_once -= 1
        left = self._running[account] - 1
        if left:
            self._running[account] = left
        else:
            del self._running[account]

    def next(self) -> tuple[Hashable, Work] | None:
        """Work that begins now, of the account whose turn it is; it counts as running."""
        if self._at_once >= self._bounds.width:
            return None
        for account, mine in self._waiting.items():
            if self._has_room(account):
                work = mine.popleft()
                self._count -= 1
                if mine:
                    self._waiting.move_to_end(account)
                else:
                    del self._waiting[account]
                self._start(account)
                return account, work
        return None

    def _has_room(self, account: Hashable) -> bool:
        return self._at_once < self._bounds.width and self._running.get(account, 0) < self._bounds.of_one

    def _start(self, account: Hashable) -> None:
        self._at_once += 1
        self._running[account] = self._running.get(account, 0) + 1
