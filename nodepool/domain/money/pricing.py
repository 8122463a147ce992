"""What a task costs, in CPT, the pool's whole unit of account.

Price of a started minute, as the pool tells it to its users:

    max(1, memory_gb + cpu_score/100 + gpu_score/100 + gpu_memory_gb), rounded up

The sum is rounded, not its parts: two tenths and three tenths of a core cost half a CPT together, and
so one. A submit holds the price of the longest run that the task may take; its end pays the started
minutes. Whole numbers only, so that two parts of the pool never differ by a rounding.
"""

from __future__ import annotations

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.resources import Resources

POINTS_PER_CPT = 100
MILLISECONDS_PER_MINUTE = 60_000
# What a BIGINT of the database and an int64 of the protocol can hold.
MAX_CPT = (1 << 63) - 1


def price_per_minute_cpt(needs: Resources) -> int:
    """CPT for one started minute. cpu_score and gpu_score are in points, the memories in GiB."""
    points = (needs.memory_gb + needs.gpu_memory_gb) * POINTS_PER_CPT + needs.cpu_score + needs.gpu_score
    return max(1, _divided_up(points, POINTS_PER_CPT))


def hold_cpt(needs: Resources, max_minutes: int) -> int:
    """CPT held at submit: the price of a run of `max_minutes`, the most that the task can cost."""
    if max_minutes < 1:
        raise InvalidInputError(f"max_minutes must be 1 or more, not {max_minutes}")
    held = price_per_minute_cpt(needs) * max_minutes
    if held > MAX_CPT:
        raise InvalidInputError(f"{max_minutes} minutes of this task cost more CPT than there can be")
    return held


def started_minutes(run_milliseconds: int) -> int:
    """Minutes begun by a run that took so long. A run that started has begun its first minute.

    A negative time, of a clock that was set back, counts as none.
    """
    return max(1, _divided_up(run_milliseconds, MILLISECONDS_PER_MINUTE))


def _divided_up(amount: int, by: int) -> int:
    return -(-amount // by)
