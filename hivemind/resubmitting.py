"""Tasks that have ended, once more: nothing is uploaded, the package stays in the pool.

Knows the connection and no command.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

from hivemind.array_upload import ArraySubmission, new_job_id
from hivemind.channel import GatewayChannel
from hivemind.errors import RefusedError, UnsupportedError
from hivemind.needs import TaskNeeds, needs_to_wire
from hivemind.uploading import new_task_id
from nodepool.domain.errors import InvalidInputError
from nodepool.domain.ids import check_job_id, check_task_id
from nodepool.domain.tasks.states import TaskState
from nodepool.protocol import nodepool_pb2 as pb

_NAMES = frozenset(field.name for field in fields(TaskNeeds))


@dataclass(frozen=True, slots=True, kw_only=True)
class Resubmission:
    """`task_id` is the new task's. One of a job has a job of its own, where it keeps its index."""

    task_id: str
    repeated: bool
    message: str
    job_id: str = ""
    max_minutes: int = 0


def resubmit_task(
    gateway: GatewayChannel, task_id: str, new_id: str, changes: Mapping[str, Any]
) -> Resubmission:
    """See `NodePoolClient.resubmit`."""
    with _known(), _checked():
        request = pb.ResubmitTaskRequest(
            task_id=task_id,
            new_task_id=check_task_id(new_id or new_task_id()),
            changes=_wanted(changes),
            changed=sorted(changes),
        )
        answer = gateway.call(gateway.tasks.ResubmitTask, request)
    return Resubmission(
        task_id=answer.task_id,
        repeated=answer.repeated,
        message=answer.message,
        job_id=answer.job_id,
        max_minutes=answer.max_minutes,
    )


def resubmit_job(
    gateway: GatewayChannel,
    job_id: str,
    states: Sequence[TaskState],
    indices: Sequence[int],
    new_id: str,
    max_cpt: int,
    changes: Mapping[str, Any],
) -> ArraySubmission:
    """See `NodePoolClient.resubmit_job`."""
    with _known(), _checked():
        request = pb.ResubmitJobRequest(
            job_id=job_id,
            new_job_id=check_job_id(new_id or new_job_id()),
            states=[state.value for state in states],
            indexes=indices,
            changes=_wanted(changes),
            changed=sorted(changes),
            max_cpt=max_cpt,
        )
        answer = gateway.call(gateway.tasks.ResubmitJob, request)
    return ArraySubmission(
        job_id=answer.job_id,
        tasks=answer.tasks,
        package_bytes=0,
        repeated=answer.repeated,
        message=answer.message,
        max_minutes=answer.max_minutes,
        price_per_minute_cpt=answer.price_per_minute_cpt,
        most_cpt=answer.most_cpt,
    )


def _wanted(changes: Mapping[str, Any]) -> pb.UploadTaskRequest:
    """Raises RefusedError."""
    for name in changes:
        if name not in _NAMES:
            raise RefusedError(f"a task has no {name!r}: one of {', '.join(sorted(_NAMES))} can be changed")
    return needs_to_wire(TaskNeeds(**changes))


@contextmanager
def _checked() -> Iterator[None]:
    """What no pool would take is refused as the pool would."""
    try:
        yield
    except (InvalidInputError, ValueError, TypeError) as error:
        raise RefusedError(str(error)) from error


@contextmanager
def _known() -> Iterator[None]:
    try:
        yield
    except UnsupportedError:
        raise UnsupportedError("this pool is too old to do a task again: submit it anew") from None
