"""For how long something has been so, of each of many, by the clock of whoever looks. Pure."""

from __future__ import annotations

from collections.abc import Collection


class Patience:
    """For one thread. What was not looked at stays as it was; a look that finds it otherwise ends it."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def seconds(self, key: str, now: float, *, is_so: bool) -> float:
        if not is_so:
            self._since.pop(key, None)
            return 0.0
        return now - self._since.setdefault(key, now)

    def begin_anew(self) -> None:
        self._since.clear()

    def keep_only(self, keys: Collection[str]) -> None:
        for gone in self._since.keys() - keys:
            del self._since[gone]
