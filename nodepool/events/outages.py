"""Lines of outages: which part does not work, and for how long. Knows neither SQL nor the broker."""

from __future__ import annotations

from collections.abc import Mapping

from nodepool.events.catalogue import OutageBegan, OutageEnded
from nodepool.events.telling import tell


class OutageTeller:
    """What one process finds. For one thread; times are seconds of one steady clock."""

    def __init__(self, observer: str) -> None:
        self._observer = observer
        self._open: dict[str, tuple[float, str]] = {}

    def see(self, problems: Mapping[str, str], now: float) -> None:
        """`problems`: by part, in words; empty, or not there at all, where it works."""
        for part, words in problems.items():
            if words and part not in self._open:
                self._open[part] = (now, words)
                tell(OutageBegan(observer=self._observer, part=part, cause=words))
        for part in [part for part in self._open if not problems.get(part)]:
            began_at, words = self._open.pop(part)
            tell(OutageEnded(observer=self._observer, part=part, cause=words, seconds=now - began_at))

    def stood_still(self, seconds: float) -> None:
        """This process itself, which knows it only now."""
        told = OutageEnded(
            observer=self._observer, part=self._observer, cause="it stood still", seconds=seconds
        )
        tell(told)
