"""Gateways tell each other what was used of which bound: one script in Redis a second, for all keys.

While Redis is away each gateway keeps the bounds by itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import structlog

from gateway.admission.request_limits import BucketUse, RequestLimits
from nodepool.domain.errors import UnavailableError
from nodepool.stores.redis import keys
from nodepool.stores.redis.client import Client
from nodepool.stores.redis.rate_counters import RateCounters

log = structlog.get_logger(__name__)
PERIOD_SECONDS = 1.0
_WINDOW_SECONDS = 60
_KEPT_SECONDS = 120
_MOST_AT_ONCE = 500
# Less than this part of a bound in a second is far from it, however many gateways there are.
_TOLD_SHARE = 0.002


class RequestSync:
    """For one thread at a time."""

    def __init__(self, client: Client, limits: RequestLimits, clock: Callable[[], float] = time.time) -> None:
        self._counters = RateCounters(client)
        self._limits = limits
        self._clock = clock
        self._window = -1
        self._mine_and_known: dict[str, int] = {}

    def sync(self) -> None:
        uses = [use for use in self._limits.used() if use.amount >= _TOLD_SHARE * use.per_minute]
        window = int(self._clock() // _WINDOW_SECONDS)
        if window != self._window:
            self._window, self._mine_and_known = window, {}
        for start in range(0, len(uses), _MOST_AT_ONCE):
            try:
                self._publish(uses[start : start + _MOST_AT_ONCE])
            except UnavailableError as error:
                log.debug(
                    "bounds are kept by this gateway alone",
                    action="requests.alone",
                    reason=repr(error.__cause__),
                )
                return

    def _publish(self, uses: list[BucketUse]) -> None:
        names = [keys.requests(self._window, use.key) for use in uses]
        amounts = [math.ceil(use.amount) for use in uses]
        sums = self._counters.add(names, amounts, kept_seconds=_KEPT_SECONDS)
        elsewhere = []
        for use, amount, total in zip(uses, amounts, sums, strict=True):
            others = total - amount - self._mine_and_known.get(use.key, 0)
            self._mine_and_known[use.key] = total
            if others > 0:
                elsewhere.append(BucketUse(use.key, use.per_minute, float(others)))
        self._limits.used_elsewhere(elsewhere)
