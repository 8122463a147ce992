"""Tasks that have ended, once more: from their package, which is in the pool, and all that they were given.

They are accepted as new ones are, by the same code, with the money, limits and rules of now. Some tasks of
a job become a job of their own, whose tasks keep index and values and are told how many the whole has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from gateway.messages import is_final, status_message
from gateway.usecases import jobs, notify_targets, submit_array, submit_task, tasks
from gateway.usecases.again import OF_EACH_TASK, request_of_row, with_changes
from gateway.usecases.kept_package import KeptPackage
from gateway.usecases.submit_array import AcceptedArray, ArrayRequest
from nodepool.domain.errors import InvalidInputError, StateConflictError
from nodepool.domain.ids import check_job_id, check_task_id
from nodepool.domain.tasks.arrays import MAX_TASKS, PIECE_TASKS, ArrayInputs
from nodepool.domain.tasks.new_task import RequestedTask
from nodepool.domain.tasks.run_inputs import RunInputs
from nodepool.domain.tasks.states import FINAL_TASK_STATES, JobKind, TaskState
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql import job_copies, job_intake
from nodepool.stores.sql.job_rows import StoredJob
from nodepool.stores.sql.task_rows import WholeTask

_SHOWN_INDICES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Resubmitted:
    task_id: str
    job_id: str = ""
    repeated: bool
    max_minutes: int
    minutes_by_balance: bool


# -- one task -------------------------------------------------------------------------------------------
async def resubmit_task(
    gateway: Gateway, owner: CallerIdentity, request: pb.ResubmitTaskRequest
) -> Resubmitted:
    """Raises NotFoundError, StateConflictError, and what a submit raises."""
    row = await gateway.run(_own_and_ended, gateway, owner, request)
    if row.job_id:
        return await _as_job(gateway, owner, request, row)
    columns = _columns(gateway, row, request.new_task_id, request.changes, request.changed)
    columns["pinned_node"], columns["resubmit_of"] = row.pinned_node, row.id
    if "notify" not in request.changed:
        columns["notify"] = notify_targets.still_set(gateway, owner, row.notify)
    package = KeptPackage(row.package_bytes, row.package_sha256)
    accepted = await gateway.run(submit_task.submit_kept, gateway, owner, columns, package)
    return Resubmitted(
        task_id=accepted.task_id,
        repeated=accepted.repeated,
        max_minutes=accepted.max_minutes,
        minutes_by_balance=accepted.minutes_by_balance,
    )


def _own_and_ended(gateway: Gateway, owner: CallerIdentity, request: pb.ResubmitTaskRequest) -> WholeTask:
    check_task_id(request.new_task_id)
    row = tasks.find_own(gateway, owner, request.task_id)
    if not is_final(row):
        raise StateConflictError(
            f"task {row.id} has not ended ({status_message(row)}): wait for it, or stop it first"
        )
    return row


async def _as_job(
    gateway: Gateway, owner: CallerIdentity, request: pb.ResubmitTaskRequest, row: WholeTask
) -> Resubmitted:
    """A task of a job is told its index, and how many there are."""
    of_job = pb.ResubmitJobRequest(
        job_id=row.job_id,
        new_job_id=request.new_task_id,
        indexes=[row.job_index],
        changes=request.changes,
        changed=request.changed,
    )
    accepted = await resubmit_job(gateway, owner, of_job)
    return Resubmitted(
        task_id=job_intake.task_id(accepted.job_id, row.job_index),
        job_id=accepted.job_id,
        repeated=accepted.repeated,
        max_minutes=accepted.price.max_minutes,
        minutes_by_balance=accepted.price.minutes_by_balance,
    )


def _columns(
    gateway: Gateway,
    row: WholeTask,
    new_id: str,
    changes: pb.UploadTaskRequest,
    changed: Collection[str],
) -> RequestedTask:
    request = request_of_row(row, default_minutes=gateway.settings.default_max_minutes)
    for name in ("after", "after_any"):  # what is done again begins at once, unless it is said anew
        request.ClearField(name)
    request = with_changes(request, changes, changed)
    request.task_id = new_id
    return submit_task.requested_task(gateway, request)


# -- tasks of a job ---------------------------------------------------------------------------------------
async def resubmit_job(
    gateway: Gateway, owner: CallerIdentity, request: pb.ResubmitJobRequest
) -> AcceptedArray:
    """Raises NotFoundError, StateConflictError, and what an array raises."""
    check_job_id(request.new_job_id)
    digest = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
    repeated = await gateway.run(_before, gateway, owner, request, digest)
    if repeated is not None:
        return repeated
    again, package, indices = await gateway.run(_chosen, gateway, owner, request, digest)
    pieces = _KeptPieces(gateway, request.job_id, indices)
    return await submit_array.submit_kept(gateway, owner, again, package, pieces)


def _before(
    gateway: Gateway, owner: CallerIdentity, request: pb.ResubmitJobRequest, digest: bytes
) -> AcceptedArray | None:
    """It was accepted before: tasks of the job may have ended since, or be removed."""
    known = gateway.database.read(lambda c: job_intake.find_any(c, request.new_job_id))
    if known is None or known.accepted_at is None:
        return None
    first = gateway.database.read(lambda c: job_copies.any_task(c, known.id))
    sha256 = first.package_sha256 if first is not None else ""
    job_intake.check_same(known, owner.user_id, submit_array.digest_of(digest, b"", sha256))
    return submit_array.repeated(gateway, known)


def _chosen(
    gateway: Gateway, owner: CallerIdentity, request: pb.ResubmitJobRequest, digest: bytes
) -> tuple[ArrayRequest, KeptPackage, Sequence[int]]:
    job = jobs.find_own(gateway, owner, request.job_id)
    if job.kind is not JobKind.ARRAY:
        raise InvalidInputError(
            f"job {job.id} is a flow: its tasks are not done again one by one; `hivemind job resubmit "
            f"{job.id} --failed` goes on from where it failed"
        )
    _check_changes(request.changed)
    states = _states(request.states)
    indices = _indices(gateway, job, request.indexes, states)
    row = gateway.database.read(lambda c: job_copies.task_at(c, job.id, indices[0]))
    if row is None:
        raise _gone(job.id)
    columns = _columns(gateway, row, request.new_job_id, request.changes, request.changed)
    if "notify" not in request.changed:
        columns["notify"] = notify_targets.still_set(gateway, owner, job.notify)
    if columns["replicas"] > 1:
        raise InvalidInputError("tasks of a job run once each: replicas cannot be asked for here")
    again = ArrayRequest(
        job_id=request.new_job_id,
        columns=columns,
        inputs=ArrayInputs.of((), RunInputs()),
        tasks=len(indices),
        max_cpt=request.max_cpt,
        items=b"",
        spec_digest=digest,
        array_count=job.array_count or job.count,
        resubmit_of=job.id,
    )
    return again, KeptPackage(row.package_bytes, row.package_sha256), indices


def _check_changes(changed: Collection[str]) -> None:
    for name in sorted(OF_EACH_TASK & set(changed)):
        raise InvalidInputError(f"{name} is each task's own, and cannot be changed for tasks of a job")


def _states(words: Sequence[str]) -> frozenset[TaskState]:
    known = {state.value: state for state in FINAL_TASK_STATES}
    for word in words:
        if word not in known:
            raise InvalidInputError(
                f"state {word[:40]!r} is none of {', '.join(sorted(known))}: what has ended is done again"
            )
    return frozenset(known[word] for word in words) or FINAL_TASK_STATES


def _indices(
    gateway: Gateway, job: StoredJob, wanted: Sequence[int], states: frozenset[TaskState]
) -> Sequence[int]:
    """Of the tasks that are done again, in order. Raises StateConflictError where there is none, and for one
    that was named and cannot be."""
    words = " or ".join(sorted(state.lower() for state in states))
    chosen = set(wanted)
    if len(chosen) > MAX_TASKS:
        raise InvalidInputError(f"name at most {MAX_TASKS} indices")
    there = gateway.database.read(lambda c: job_copies.ended_indices(c, job.id, states))
    found = [index for index in there if index in chosen] if chosen else there
    if missing := sorted(chosen.difference(found)):
        shown = ", ".join(map(str, missing[:_SHOWN_INDICES])) + (
            ", …" if len(missing) > _SHOWN_INDICES else ""
        )
        raise StateConflictError(
            f"of job {job.id} there is no task {shown} that has {words}: it has not ended, ended otherwise, "
            "was removed or never was; nothing was sent"
        )
    if not found:
        raise StateConflictError(f"no task of job {job.id} has {words}: there is nothing to do again")
    return found


def _gone(job_id: str) -> StateConflictError:
    return StateConflictError(f"tasks of job {job_id} were removed at the same moment; ask again")


class _KeptPieces(Sequence[str]):
    """What each task was given, read a piece at a time: the whole may be larger than memory."""

    def __init__(self, gateway: Gateway, job_id: str, indices: Sequence[int]) -> None:
        self._gateway, self._job_id, self._indices = gateway, job_id, indices

    def __len__(self) -> int:
        return (len(self._indices) + PIECE_TASKS - 1) // PIECE_TASKS

    def __getitem__(self, number: int) -> str:  # type: ignore[override]
        """Raises StateConflictError where one of them is not there any more."""
        some = self._indices[number * PIECE_TASKS : (number + 1) * PIECE_TASKS]
        piece = self._gateway.database.read(lambda c: job_copies.piece(c, self._job_id, some))
        if piece is None:
            raise _gone(self._job_id)
        return piece
