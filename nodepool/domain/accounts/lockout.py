"""How long wrong passwords lock a name: the first few cost nothing, each further one doubles the time."""

from __future__ import annotations

from dataclasses import dataclass

LONGEST_SECONDS = 3600.0
# So long after the last wrong password all of them are forgotten.
FORGOTTEN_AFTER_SECONDS = 24 * 3600.0
_MOST_DOUBLINGS = 20


@dataclass(frozen=True, slots=True)
class LockRules:
    """`after` wrong passwords in a row lock for `first_seconds`; 0 seconds: never."""

    after: int
    first_seconds: float

    def seconds(self, failures: int) -> float:
        """How long the name is locked by its latest wrong password, of so many in a row."""
        if failures < self.after:
            return 0.0
        doublings = min(failures - self.after, _MOST_DOUBLINGS)
        return min(LONGEST_SECONDS, self.first_seconds * 2.0**doublings)
