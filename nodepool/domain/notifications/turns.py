"""Who of those that wait to be sent is next, so that nobody who hangs holds up the others. Pure.

Of one user, and to one receiver, no more than a few are on their way at once, whatever waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

MAIL_SERVER = "mail server"


def turn_of(receiver: str) -> str:
    """What is reached for it: all addresses are by the operator's one mail server."""
    return MAIL_SERVER if "@" in receiver else receiver


@dataclass(frozen=True, slots=True)
class Due:
    """A notification that may be sent now. `receiver`: what is reached for it (`turn_of`)."""

    id: str
    user_id: int
    receiver: str


class SendingTurns:
    """For one thread at a time."""

    def __init__(self, *, senders: int, of_user: int, of_receiver: int, waiting: int) -> None:
        self._senders, self._of_user, self._of_receiver = senders, of_user, of_receiver
        self._most_waiting = waiting
        self._waiting: dict[str, Due] = {}  # in the order in which they came
        self._sending: dict[str, Due] = {}
        self._users: Counter[int] = Counter()
        self._receivers: Counter[str] = Counter()

    def offer(self, found: Iterable[Due]) -> None:
        """Those that are known are passed over, and those for which there is no room: they stay due."""
        for due in found:
            if len(self._waiting) >= self._most_waiting:
                return
            if due.id not in self._sending:
                self._waiting.setdefault(due.id, due)

    def next(self) -> Due | None:
        """One that may begin now; `done` must be told of its end."""
        if len(self._sending) >= self._senders:
            return None
        for due in self._waiting.values():
            if self._users[due.user_id] < self._of_user and self._receivers[due.receiver] < self._of_receiver:
                break
        else:
            return None
        del self._waiting[due.id]
        self._sending[due.id] = due
        self._users[due.user_id] += 1
        self._receivers[due.receiver] += 1
        return due

    def done(self, due: Due) -> None:
        del self._sending[due.id]
        self._users[due.user_id] -= 1
        self._receivers[due.receiver] -= 1
        # What is at 0 is forgotten.
        self._users += Counter()
        self._receivers += Counter()

    @property
    def is_idle(self) -> bool:
        return not self._waiting and not self._sending

    @property
    def waiting(self) -> int:
        return len(self._waiting)
