"""Asks parts that say nothing by themselves (Valkey, Flower) whether they answer, each from its own thread.

A part that hangs may hold a question up for as long as that question's patience, and must not hold up whoever
watches the others. Knows no part: what is asked comes with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

_PERIOD_SECONDS = 2.0


class PartProbe:
    """`ask` says whether the part answers, and has a bound of its own on how long that takes."""

    def __init__(self, name: str, ask: Callable[[], bool], clock: Callable[[], float]) -> None:
        self._ask, self._clock = ask, clock
        self._answered_at = float("-inf")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"ask {name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def take(self, since: float) -> bool:
        """Whether it answered a question that was asked after this moment, and that was not taken before."""
        answered_at, self._answered_at = self._answered_at, float("-inf")
        return answered_at > since

    def close(self) -> None:
        self._ended.set()

    def _work(self) -> None:
        while not self._ended.wait(_PERIOD_SECONDS):
            asked_at = self._clock()
            try:
                answers = self._ask()
            except Exception:  # noqa: BLE001 - whatever it is, that is no answer
                answers = False
            if answers:
                self._answered_at = asked_at
