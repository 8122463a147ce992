"""Whether the sweep of the pool goes on, by the mark that it leaves after each pass.

Pure: times are passed in, and are those of the watcher's own monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass

#: A sweep that is older than so many of its periods stands still.
PERIODS = 3
#: Below this nothing is late: a busy machine is no dead one.
LEAST_SECONDS = 3.0
#: A pool that has just started need not have swept yet.
START_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class SweepMark:
    """`number` is another one after each pass."""

    number: str
    period_seconds: float
    pass_seconds: float  # how long the last pass took
    places: bool = True  # the dispatcher that sweeps places tasks as well


def allowed_seconds(mark: SweepMark) -> float:
    """How old a mark may be. A period is as long as it really is: the pause and the pass."""
    return max(LEAST_SECONDS, PERIODS * (mark.period_seconds + mark.pass_seconds))


class SweepWatch:
    """Of one watcher. Not thread-safe."""

    def __init__(self, now: float) -> None:
        self._began = self._changed_at = now
        self._mark: SweepMark | None = None
        self._moved = False

    def saw(self, mark: SweepMark | None, now: float) -> None:
        """What is there now. That it is there at all says nothing: it may be of last week."""
        if mark is None or (self._mark is not None and mark.number == self._mark.number):
            return
        if self._mark is not None:
            self._changed_at, self._moved = now, True
        self._mark = mark

    def age_seconds(self, now: float) -> float:
        """Since a pass ended, or since the watcher began where it has seen none end."""
        return max(0.0, now - self._changed_at)

    def problem(self, now: float) -> str:
        """What is wrong, in words; empty where nothing is."""
        age = self.age_seconds(now)
        if not self._moved:
            late = age > START_SECONDS
            words = f"no dispatcher has worked for {age:.0f} s, since this gateway began"
        else:
            late = self._mark is not None and age > allowed_seconds(self._mark)
            words = f"no dispatcher has worked for {age:.0f} s"
        if late:
            return words
        if self._mark is not None and self._moved and not self._mark.places:
            return "the dispatcher sweeps and does not place tasks any more"
        return ""
