"""Which tasks a list has: what their owner, or an operator, asks of them. Pure.

One rule for the client, who is told before anything is sent, and for the gateway, who takes nobody's word.
Knows neither pages nor who asks.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.ids import check_job_id, check_node_id
from nodepool.domain.tasks.labels import check_labels, check_name
from nodepool.domain.tasks.states import TaskState

# The last second of the year 9999: no clock says a later one, and no calendar has it.
_LAST_MOMENT = 253_402_300_799.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """Raises InvalidInputError. What is empty or 0 asks for nothing; all that is asked for must hold."""

    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    states: tuple[TaskState, ...] = ()
    node_id: str = ""
    job_id: str = ""
    since: float = 0.0  # submitted then or later
    until: float = 0.0  # submitted before

    def __post_init__(self) -> None:
        check_name(self.name)
        check_labels(self.labels)
        states_of(self.states)
        if self.node_id:
            check_node_id(self.node_id)
        if self.job_id:
            check_job_id(self.job_id)
        for word, moment in (("since", self.since), ("until", self.until)):
            if not (math.isfinite(moment) and 0 <= moment <= _LAST_MOMENT):
                raise InvalidInputError(f"{word} must be a time in Unix seconds, not {moment!r}")
        if self.until and self.since >= self.until:
            raise InvalidInputError("nothing lies between since and until: since must be the earlier of both")

    def digest(self) -> str:
        """The same for the same question, and for no other."""
        asked = [
            self.name, sorted(self.labels.items()), sorted(self.states), self.node_id, self.job_id,
            self.since, self.until,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def states_of(words: Iterable[str]) -> tuple[TaskState, ...]:
    """Each once. Raises InvalidInputError for a word that is none of them."""
    found = dict.fromkeys(words)
    for word in found:
        if word not in TaskState.__members__:
            raise InvalidInputError(f"state {word[:40]!r} is none of {', '.join(TaskState)}")
    return tuple(TaskState(word) for word in found)
