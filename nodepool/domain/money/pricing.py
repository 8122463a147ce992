"""What a task costs, in CPT, the pool's whole unit of account.

Price of a started minute, as the pool tells it to its users:

    max(1, memory_gb + cpu_score/100 + gpu_score/100 + gpu_memory_gb), rounded up

where memory_gb is 0.5 for a task that asks for 512 MiB.

The sum is rounded, not its parts: two tenths and three tenths of a core cost half a CPT together, and
so one. A submit holds the price of the longest run that the task may take; its end pays the started
minutes. Whole numbers only, so that two parts of the pool never differ by a rounding.
"""

from __future__ import annotations

from typing import Protocol

from nodepool.domain.resources import MEBIBYTES_PER_GIBIBYTE, Resources

POINTS_PER_CPT = 100
MILLISECONDS_PER_MINUTE = 60_000


def price_per_minute_cpt(needs: Resources) -> int:
    """CPT for one started minute. cpu_score and gpu_score are in points, the memories in GiB."""
    points = needs.gpu_memory_gb * POINTS_PER_CPT + needs.cpu_score + needs.gpu_score
    # In parts of 1024, so that memory in MiB is exact.
    parts = points * MEBIBYTES_PER_GIBIBYTE + needs.memory_mebibytes * POINTS_PER_CPT
    return max(1, _divided_up(parts, POINTS_PER_CPT * MEBIBYTES_PER_GIBIBYTE))


class TaskWithPrice(Protocol):
    @property
    def holds_when_placed(self) -> bool: ...
    @property
    def attempt_number(self) -> int: ...
    @property
    def price_per_minute(self) -> int: ...
    @property
    def max_minutes(self) -> int: ...
    @property
    def hold_again(self) -> int: ...


def to_hold_when_placed(task: TaskWithPrice) -> int:
    """What placing the task sets aside; 0 where that was done when it was accepted or first placed. Before
    another try it is what the last one was paid."""
    if not task.holds_when_placed or task.attempt_number:
        return task.hold_again
    return task.price_per_minute * task.max_minutes


def is_covered(balance: int, to_hold: int) -> bool:
    return balance >= to_hold


def covered_minutes(balance: int, each_minute: int, most: int) -> int:
    """How long a task may run whose owner does not say: as long as others, or as the balance covers."""
    return max(0, min(most, balance // each_minute))


def started_minutes(run_milliseconds: int) -> int:
    """Minutes begun by a run that took so long. A run that started has begun its first minute.

    A negative time, of a clock that was set back, counts as none.
    """
    return max(1, _divided_up(run_milliseconds, MILLISECONDS_PER_MINUTE))


def _divided_up(amount: int, by: int) -> int:
    return -(-amount // by)
