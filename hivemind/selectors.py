"""What somebody names: whole ids of tasks and jobs, beginnings that only one has, or labels.

The one piece that knows it, for all commands and for programs; the pool says what is meant. Knows the
connection and no command.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hivemind.channel import GatewayChannel
from hivemind.errors import ClientError, MissingError, RefusedError, UnsupportedError
from hivemind.task_lists import own_tasks, task_filter
from nodepool.domain.errors import InvalidInputError
from nodepool.domain.ids import check_beginning
from nodepool.domain.tasks.states import TaskState
from nodepool.protocol import nodepool_pb2 as pb

# As clients make them: nothing longer begins so, but a job's tasks.
_WHOLE_TASK = re.compile(r"task_\d{8}_\d{6}_[0-9a-f]{8}")
_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class NamedIds:
    """Ids, each once, in the order in which they were named."""

    tasks: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.tasks) + len(self.jobs)


def select(
    gateway: GatewayChannel,
    names: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    *,
    states: Iterable[TaskState] = (),
) -> NamedIds:
    """What `names` mean, or the tasks with all of these labels (in one of `states`), newest first.

    Raises MissingError where there is nothing, and RefusedError where a beginning is several ones', where
    something can be no id, or where both are given or neither.
    """
    if bool(names) == bool(labels):
        raise RefusedError("name tasks, or give labels" + (", not both" if names else ""))
    if labels:
        return _labelled(gateway, labels, tuple(states))
    for name in names:
        try:
            check_beginning(name)
        except InvalidInputError as error:
            raise RefusedError(str(error)) from error
    wanted = list(dict.fromkeys(names))
    tasks: dict[str, None] = {}
    jobs: dict[str, None] = {}
    for found in _resolved(gateway, wanted):
        if found.task_id:
            tasks[_checked(found.task_id, found.name)] = None
        elif found.job_id:
            jobs[_checked(found.job_id, found.name)] = None
        elif found.candidates:
            raise RefusedError(found.problem, hint="name one of them, or write more of it")
        else:
            raise MissingError(found.problem)
    return NamedIds(tuple(tasks), tuple(jobs))


def _labelled(gateway: GatewayChannel, labels: Mapping[str, str], states: tuple[TaskState, ...]) -> NamedIds:
    wanted = task_filter(labels=labels, states=states)
    found = tuple(_checked(task.task_id) for task in own_tasks(gateway, wanted, 0))
    if not found:
        told = ", ".join(f"{key}={value}" for key, value in labels.items())
        how = f" that is {' or '.join(states)}" if states else ""
        raise MissingError(f"there is no task of yours with the label {told}{how}")
    return NamedIds(found)


def _checked(pools_word: str, begins: str = "") -> str:
    """What the pool says is named becomes a name of files here, and is stopped and deleted by it."""
    try:
        if check_beginning(pools_word).startswith(begins):
            return pools_word
    except InvalidInputError:
        pass
    raise ClientError(f"the pool answered {pools_word[:80]!r}, which was not asked for")


def _resolved(gateway: GatewayChannel, names: Sequence[str]) -> list[pb.ResolvedId]:
    """In the order of the names. An older pool knows whole ids of tasks only."""
    asked = [name for name in names if not _WHOLE_TASK.fullmatch(name)]
    found: dict[str, pb.ResolvedId] = {}
    for start in range(0, len(asked), _AT_ONCE):
        request = pb.ResolveIdsRequest(names=asked[start : start + _AT_ONCE])
        try:
            answer = gateway.call(gateway.tasks.ResolveIds, request)
        except UnsupportedError:
            break
        found.update({it.name: it for it in answer.ids})
    return [found.get(name) or pb.ResolvedId(name=name, task_id=name) for name in names]
