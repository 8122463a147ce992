"""Flows: named steps, each a task or an array, of which one comes after others and reads what these made.

Pure. One rule for the client, who is told before anything is sent, and for the pool. `{step.result}` in an
argument or in the value of a variable is the folder where the run finds the result files of that step.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.ids import check_task_id
from nodepool.domain.tasks.arrays import MAX_INDEX, MAX_TASKS

MAX_STEPS = 100
#: Where a run finds results of other steps, below its working directory.
INPUTS = "inputs"
RESULT = ".result"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
_SHOWN = 60
# The indices of all steps are numbers of one column.
_MAX_INDICES = (1 << 31) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOrder:
    """What a step is called, and which steps it comes after: their success, or any end of them."""

    name: str
    needs: tuple[str, ...] = ()
    needs_any: tuple[str, ...] = ()

    @property
    def all_needs(self) -> tuple[str, ...]:
        return (*self.needs, *self.needs_any)


def check_steps(steps: Sequence[StepOrder], job_id: str = "") -> list[str]:
    """Names of the steps, each after those that it needs. Raises InvalidInputError."""
    if not 1 <= len(steps) <= MAX_STEPS:
        raise InvalidInputError(f"a flow has 1 to {MAX_STEPS} steps, not {len(steps)}")
    names = [check_step_name(step.name) for step in steps]
    for step in steps:
        if names.count(step.name) > 1:
            raise InvalidInputError(f"two steps are called {step.name!r}: give each a name of its own")
        _check_needs(step, names)
        check_task_id(f"{job_id or 'job'}.{step.name}.{MAX_INDEX}")
    try:
        graph = {step.name: step.all_needs for step in steps}
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise InvalidInputError(
            f"steps come after each other in a circle: {' after '.join(reversed(error.args[1]))}"
        ) from None


def check_step_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"{name[:_SHOWN]!r} is no name of a step: it has letters, digits, '_' and '-', 40 at the most, "
            "and begins with a letter"
        )
    return name


def _check_needs(step: StepOrder, names: Sequence[str]) -> None:
    for needed in step.all_needs:
        if needed == step.name:
            raise InvalidInputError(f"step {step.name!r} cannot come after itself")
        if needed not in names:
            raise InvalidInputError(
                f"step {step.name!r} needs {needed[:_SHOWN]!r}, {_unknown(needed, names)}"
            )
        if step.all_needs.count(needed) > 1:
            raise InvalidInputError(f"step {step.name!r} needs {needed!r} twice: once is enough")


def _unknown(name: str, names: Sequence[str]) -> str:
    close = get_close_matches(name, names, n=1)
    return f"which is no step of the flow{f': did you mean {close[0]!r}?' if close else ''}"


# -- results ------------------------------------------------------------------------------------------------
_RESULT_NAME = re.compile(r"\{\{|\}\}|\{([A-Za-z][A-Za-z0-9_-]*)\.result\}")


def used_results(texts: Iterable[str], step: StepOrder) -> tuple[str, ...]:
    """The steps whose results these arguments and values speak of. Raises InvalidInputError for one that the
    step does not come after."""
    found: dict[str, None] = {}
    for text in texts:
        for token in _RESULT_NAME.finditer(text):
            if token[1] is None:
                continue
            if token[1] not in step.all_needs:
                raise InvalidInputError(
                    f"step {step.name!r} speaks of {{{token[1]}{RESULT}}} and does not come after "
                    f"{token[1]!r}: add it to its needs"
                )
            found[token[1]] = None
    return tuple(found)


def result_values(steps: Iterable[str]) -> dict[str, str]:
    """What stands for the results of these steps in arguments and variables."""
    return {f"{step}{RESULT}": f"{INPUTS}/{step}" for step in steps}


# -- indices ------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class IndexRange:
    """Where the tasks of a step are among those of its flow: their own indices begin at 0."""

    first: int
    last: int


def index_ranges(last_indices: Sequence[int]) -> list[IndexRange]:
    """For each step, whose last own index is given. Raises InvalidInputError."""
    ranges: list[IndexRange] = []
    first = 0
    for last in last_indices:
        ranges.append(IndexRange(first, first + last))
        first += last + 1
    if first > _MAX_INDICES:
        raise InvalidInputError(
            f"the indices of all steps of a flow go up to {_MAX_INDICES}, and these to {first}: begin at 0"
        )
    return ranges


def check_tasks(counts: Mapping[str, int]) -> int:
    """How many tasks all steps have together. Raises InvalidInputError."""
    total = sum(counts.values())
    if total > MAX_TASKS:
        raise InvalidInputError(f"a flow has at most {MAX_TASKS} tasks, and these steps have {total}")
    return total
