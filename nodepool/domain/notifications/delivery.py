"""When a notification is sent, tried again and given up. Pure: times and chance are passed in."""

from __future__ import annotations

from enum import StrEnum

from nodepool.domain.tasks.retention import DAY_SECONDS

# Before the second try; twice as long before each that follows, up to the last of these two.
_FIRST_SECONDS, _LONGEST_SECONDS = 10.0, 3600.0
# So much of a wait is chance, so that what failed at one moment is not tried again at one moment.
_JITTER = 0.5
MINUTE_SECONDS = 60.0
# How long what was sent or given up is shown.
KEPT_SECONDS = 30 * DAY_SECONDS
# Codes by mail that one address, and one user, may cause in a day.
MAX_CODES_PER_ADDRESS, MAX_CODES_PER_USER = 3, 5
# Wrong codes after which a new one has to be sent.
MAX_WRONG_CODES = 5
# Longest that the signing key of before is used beside a new one.
BOTH_KEYS_SECONDS = DAY_SECONDS


class NotificationKind(StrEnum):
    """What it tells of."""

    TASK = "task"
    JOB = "job"
    TEST = "test"
    CODE = "code"  # that confirms a mail address


class DeliveryState(StrEnum):
    WAITING = "waiting"  # to be sent, or to be tried again
    SENT = "sent"
    FAILED = "failed"  # given up
    DROPPED = "dropped"  # its target is gone, or its user may not


def pause_before_next(tries: int, chance: float) -> float:
    """Seconds after a try that failed, the how manyth it was counted from 1. `chance`: 0 to 1."""
    longest = min(_LONGEST_SECONDS, _FIRST_SECONDS * 2.0 ** min(tries - 1, 30))
    return longest * (1 - _JITTER * chance)


def first_try_at(now: float, earlier: float | None) -> float:
    """When a new one is sent. `earlier`: when the one was to be sent first that is as many before it as a
    user may be sent in a minute; None: there are not so many."""
    return now if earlier is None else max(now, earlier + MINUTE_SECONDS)
