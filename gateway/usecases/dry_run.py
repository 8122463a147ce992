"""What a submit would be refused for, found out by the submit's own checks while nothing is sent."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from gateway.usecases import package_check, submit_array, submit_task
from nodepool.domain.tasks.arrays import check_count
from nodepool.domain.tasks.new_task import RequestedTask
from nodepool.protocol import nodepool_pb2 as pb

# No task has it: a dry run is never the repetition of an upload.
_NO_ID = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptable:
    """Of a task, or an array, that would be accepted now."""

    score: int  # its owner's credit
    stored_bytes: int  # that its owner keeps
    max_minutes: int
    minutes_by_balance: bool
    array_most_cpt: int = 0


def check(
    gateway: Gateway, owner: CallerIdentity, columns: RequestedTask, request: pb.ExplainTaskRequest
) -> Acceptable:
    """Raises what `submit_task.submit` and `submit_array.submit` raise before they keep anything."""
    size, sha256 = package_size(request), request.task.package_sha256.lower()
    columns = {**columns, "id": _NO_ID}
    submit_task.check_size(gateway, size)
    package_check.check_not_refused(gateway, sha256)
    if request.tasks:
        return _check_array(gateway, owner, columns, request, size, sha256)
    known = submit_task.check_before_it_comes(gateway, owner, columns, size, sha256)
    return Acceptable(
        score=known.score,
        stored_bytes=known.stored_bytes,
        max_minutes=known.columns["max_minutes"],
        minutes_by_balance=known.columns["minutes_by_balance"],
    )


def _check_array(
    gateway: Gateway,
    owner: CallerIdentity,
    columns: RequestedTask,
    request: pb.ExplainTaskRequest,
    size: int,
    sha256: str,
) -> Acceptable:
    found = submit_array.check_early(
        gateway,
        owner,
        columns,
        tasks=check_count(request.tasks),
        max_cpt=request.max_cpt,
        size=size,
        sha256=sha256,
    )
    return Acceptable(
        score=found.score,
        stored_bytes=found.stored_bytes,
        max_minutes=found.price.max_minutes,
        minutes_by_balance=found.price.minutes_by_balance,
        array_most_cpt=found.price.most,
    )


def package_size(request: pb.ExplainTaskRequest) -> int:
    """In bytes, as told or as sent along."""
    return max(len(request.task.task_zip), request.task.package_bytes, 0)
