"""The mark that the sweep leaves after each pass, for whoever wants to know whether a dispatcher works.

It has a number and no time: who watches it counts on their own monotonic clock since it last changed, so that
no clock that jumps makes the sweep look old. Who looks once only reads its age from its TTL.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass

from nodepool.domain.sweep_watch import SweepMark
from nodepool.stores.redis import keys
from nodepool.stores.redis.client import Client, any_error_translated
from nodepool.stores.redis.even_when_full import EvenWhenFull


@dataclass(frozen=True, slots=True)
class SeenMark:
    mark: SweepMark
    age_seconds: float  # by the broker's clock


class SweepMarks:
    """Raises UnavailableError."""

    def __init__(self, client: Client) -> None:
        self._redis = client
        self._always = EvenWhenFull(client)
        self._process = secrets.token_hex(4)
        self._passes = 0

    def leave(self, *, period_seconds: float, pass_seconds: float, places: bool) -> None:
        """After a pass; `places`: the dispatcher that sweeps places tasks as well."""
        self._passes += 1
        text = json.dumps(
            {
                "number": f"{self._process}:{self._passes}",
                "period": period_seconds,
                "pass": round(pass_seconds, 3),
                "places": places,
            }
        )
        with any_error_translated():
            self._always("SET", keys.SWEPT, text, "EX", keys.SWEPT_TTL_SECONDS)

    def seen(self) -> SeenMark | None:
        """None: no dispatcher has swept for a day, or the broker has lost its keys since."""
        with any_error_translated(), self._redis.pipeline(transaction=True) as pipe:
            pipe.get(keys.SWEPT)
            pipe.pttl(keys.SWEPT)
            text, pttl = pipe.execute()
        if not text or pttl < 0:
            return None
        found = json.loads(text)
        mark = SweepMark(
            str(found["number"]), float(found["period"]), float(found["pass"]), bool(found["places"])
        )
        return SeenMark(mark, max(0.0, keys.SWEPT_TTL_SECONDS - pttl / 1000))
