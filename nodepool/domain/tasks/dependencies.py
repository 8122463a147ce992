"""Tasks that come after other tasks: what may be named, when such a task may go on, and when it never will.

Pure. What waits and what is waited for are units: a task, a job as a whole, or one step of a job. Nothing is
held or paid while it waits, and it is in nobody's line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.ids import check_task_id
from nodepool.domain.tasks.reasons import Reason, ReasonCode, because

#: Ids that one task or job may name.
MAX_NEEDED = 100
# In the place of a step's number.
TASK, WHOLE_JOB = -1, -2
_TOLD = 3
_TOLD_CHARACTERS = 60


@dataclass(frozen=True, slots=True, order=True)
class Unit:
    """What waits, or is waited for."""

    id: str
    step: int = TASK
    name: str = ""  # of the step, as people know it

    def __str__(self) -> str:
        if self.name:
            return f"step {self.name}"
        return f"{'task' if self.step == TASK else 'job'} {self.id[:_TOLD_CHARACTERS]}"


class Bad(StrEnum):
    """Why what is waited for has not succeeded and never will by itself."""

    FAILED = "has failed"
    STOPPED = "was stopped"
    GONE = "is not there any more"


@dataclass(frozen=True, slots=True)
class Standing:
    """How it is with a unit. Of a job one failed task is bad enough, before the others have ended."""

    has_ended: bool
    bad: Bad | None = None


@dataclass(frozen=True, slots=True)
class Need:
    """`on_any_end`: it is met when the unit has ended, however it did; else by its success alone."""

    unit: Unit
    on_any_end: bool
    standing: Standing

    @property
    def is_met(self) -> bool:
        return self.standing.has_ended and (self.on_any_end or self.standing.bad is None)

    @property
    def is_broken(self) -> bool:
        """It will never be met by itself."""
        return not self.on_any_end and self.standing.bad is not None


class NextStep(Enum):
    WAIT = "wait"
    GO = "go"
    STOP = "stop"


def what_next(needs: Iterable[Need]) -> tuple[NextStep, Reason]:
    """For what waits for these, with the reason of a stop. A broken one is enough: nobody waits in vain."""
    is_waiting = False
    for need in needs:
        if need.is_broken:
            return NextStep.STOP, needed_failed(need)
        is_waiting = is_waiting or not need.is_met
    return (NextStep.WAIT if is_waiting else NextStep.GO), Reason()


def needed_failed(need: Need) -> Reason:
    return because(ReasonCode.NEEDED_FAILED, needed=str(need.unit), ended=need.standing.bad or "")


def waits_for(needs: Sequence[Need]) -> Reason:
    """Why a task waits that comes after these."""
    told = [f"{need.unit}{', however it ends' if need.on_any_end else ''}" for need in needs[:_TOLD]]
    more = len(needs) - len(told)
    words = ", ".join(told) + (f" and {more} more" if more else "")
    return because(ReasonCode.AFTER_OTHERS, after=words)


def check_named(own_id: str, after: Sequence[str], after_any: Sequence[str]) -> None:
    """What a task or job of this id comes after. Raises InvalidInputError."""
    named = [*after, *after_any]
    if len(named) > MAX_NEEDED:
        raise InvalidInputError(
            f"a task comes after at most {MAX_NEEDED} others, not {len(named)}: send those as one job, and "
            "name the job"
        )
    for needed_id in named:
        try:
            check_task_id(needed_id)
        except InvalidInputError:
            raise InvalidInputError(f"{needed_id[:_TOLD_CHARACTERS]!r} is no id of a task or job") from None
    if own_id in named:
        raise InvalidInputError(f"{own_id} cannot come after itself")
    twice = next((one for one in named if named.count(one) > 1), "")
    if twice:
        raise InvalidInputError(f"{twice} is named twice among those that it comes after: once is enough")


def to_lines(ids: Iterable[str]) -> str:
    return "\n".join(ids)


def from_lines(text: str) -> list[str]:
    return text.split("\n") if text else []
