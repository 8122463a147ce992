"""A flow goes on from where it failed: its tasks that did not succeed, as a new flow with the same steps.

Tasks keep their steps, their indices and what they were given. A step whose tasks have all succeeded is not
run again: later steps are given the results that it left, and of one that is done again in part the others'.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from gateway.usecases import keep_flow, notify_targets, submit_flow, submit_task
from gateway.usecases.again import request_of_row, with_changes
from gateway.usecases.keep_flow import AcceptedFlow, FlowPart, PreparedFlow
from gateway.usecases.kept_package import KeptPackage
from nodepool.domain.errors import InvalidInputError, StateConflictError
from nodepool.domain.ids import check_job_id
from nodepool.domain.notifications.targets import wanted_targets
from nodepool.domain.tasks.arrays import PIECE_TASKS
from nodepool.domain.tasks.dependencies import from_lines, to_lines
from nodepool.domain.tasks.states import FINAL_TASK_STATES, JobKind, TaskState
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql import flow_copies, job_intake, job_steps
from nodepool.stores.sql.account_facts import AccountFacts, account_facts
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.flow_copies import EndedFlowTask
from nodepool.stores.sql.job_rows import StoredJob, StoredStep
from nodepool.stores.sql.task_rows import WholeTask


@dataclass(frozen=True, slots=True, kw_only=True)
class _Again:
    """A step with the indices of those of its tasks that are done again."""

    stored: StoredStep
    indices: Sequence[int]
    row: WholeTask  # the first of them


async def resubmit_if_flow(
    gateway: Gateway, owner: CallerIdentity, request: pb.ResubmitJobRequest
) -> AcceptedFlow | None:
    """None where the job is no flow. Raises StateConflictError where there is nothing to do again, or
    something that is needed is gone."""
    check_job_id(request.new_job_id)
    digest = hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
    known, job = await gateway.run(gateway.database.read, lambda c: _jobs(c, request))
    if known is not None and known.kind is JobKind.FLOW and known.accepted_at is not None:
        job_intake.check_same(known, owner.user_id, digest)
        return AcceptedFlow(job_id=known.id, tasks=known.count, most=0, repeated=True)
    if job is None or job.kind is not JobKind.FLOW or job.owner_id != owner.user_id:
        return None
    if request.indexes:
        raise InvalidInputError(f"job {job.id} is a flow: what of it is done again is said by states")
    prepared, pieces = await gateway.run(_prepare, gateway, owner, job, request, digest)
    return await keep_flow.keep(gateway, prepared, pieces, ExitStack())


def _jobs(
    connection: Connection, request: pb.ResubmitJobRequest
) -> tuple[StoredJob | None, StoredJob | None]:
    old = job_intake.find_any(connection, request.job_id)
    is_accepted = old is not None and old.accepted_at is not None
    return job_intake.find_any(connection, request.new_job_id), old if is_accepted else None


def _prepare(
    gateway: Gateway, owner: CallerIdentity, job: StoredJob, request: pb.ResubmitJobRequest, digest: str
) -> tuple[PreparedFlow, Sequence[Sequence[str]]]:
    steps = gateway.database.read(lambda c: job_steps.of_job(c, job.id))
    ended = gateway.database.read(lambda c: flow_copies.ended_tasks(c, job.id))
    chosen = _chosen(job, ended, request.states)
    again = {step.number: _of_step(gateway, job, step, chosen) for step in steps}
    _check_needs(steps, again, ended)
    account = gateway.database.read(lambda c: account_facts(c, owner.user_id))
    parts = [
        _part(gateway, owner, account, request, found, again) for found in again.values() if found is not None
    ]
    others = [_empty(step, request.new_job_id) for step in steps if again[step.number] is None]
    row = {
        "id": request.new_job_id,
        "name": job.name,
        "labels": job.labels,
        "digest": digest,
        "max_cpt": request.max_cpt,
        "resubmit_of": job.id,
        "notify": _notify(gateway, owner, job, request),
    }
    prepared = submit_flow.prepare(gateway, owner, account, row, parts, others)
    return prepared, [_pieces(gateway, job.id, again[part.stored.number]) for part in parts]


def _notify(gateway: Gateway, owner: CallerIdentity, job: StoredJob, request: pb.ResubmitJobRequest) -> str:
    """Who is told of the end of all of it."""
    if "notify" not in request.changed:
        return notify_targets.still_set(gateway, owner, job.notify)
    notify = to_lines(wanted_targets(request.changes.notify))
    gateway.database.read(lambda c: notify_targets.check_wanted(c, owner.user_id, notify))
    return notify


def _chosen(job: StoredJob, ended: Sequence[EndedFlowTask], words: Sequence[str]) -> list[int]:
    """With those that failed go those that were stopped for it. No word: all that have ended."""
    known = {state.value: state for state in FINAL_TASK_STATES}
    for word in words:
        if word not in known:
            raise InvalidInputError(f"state {word[:40]!r} is none of {', '.join(sorted(known))}")
    states = {known[word] for word in words} or FINAL_TASK_STATES
    found = [
        task.job_index
        for task in ended
        if task.state in states or (TaskState.FAILED in states and task.was_stopped_for_others)
    ]
    if not found:
        told = " or ".join(sorted(state.lower() for state in states))
        raise StateConflictError(f"no task of flow {job.id} has {told}: there is nothing to do again")
    return found


def _of_step(gateway: Gateway, job: StoredJob, step: StoredStep, chosen: Sequence[int]) -> _Again | None:
    indices = [index for index in chosen if step.first_index <= index <= step.last_index]
    if not indices:
        return None
    row = gateway.database.read(lambda c: flow_copies.task_at(c, job.id, indices[0]))
    if row is None:
        raise StateConflictError(f"tasks of flow {job.id} were removed at the same moment; ask again")
    return _Again(stored=step, indices=indices, row=row)


def _check_needs(
    steps: Sequence[StoredStep], again: Mapping[int, _Again | None], ended: Sequence[EndedFlowTask]
) -> None:
    """What is not done again and is needed has succeeded, and left what is wanted of it."""
    by_name = {step.name: step for step in steps}
    states: dict[int, list[EndedFlowTask]] = defaultdict(list)
    for task in ended:
        for step in steps:
            if step.first_index <= task.job_index <= step.last_index:
                states[step.number].append(task)
    for found in filter(None, again.values()):
        own = found.stored
        for name in from_lines(own.needs):
            needed = by_name[name]
            redone = again[needed.number]
            left = [it for it in states[needed.number] if not redone or it.job_index not in redone.indices]
            if any(it.state is not TaskState.SUCCEEDED for it in left) or (
                len(left) + (len(redone.indices) if redone else 0) < needed.tasks
            ):
                raise StateConflictError(
                    f"step {own.name!r} comes after {name!r}, which has tasks that did not succeed and are "
                    "not done again: ask for those, too (--failed --stopped)"
                )
            if name in from_lines(own.inputs) and any(it.is_removed for it in left):
                raise StateConflictError(
                    f"results of step {name!r} are not kept any more, and step {own.name!r} is given them: "
                    "do all of it again (--all), or send the flow anew"
                )


def _part(
    gateway: Gateway,
    owner: CallerIdentity,
    account: AccountFacts,
    request: pb.ResubmitJobRequest,
    found: _Again,
    again: Mapping[int, _Again | None],
) -> FlowPart:
    wanted = request_of_row(found.row, default_minutes=gateway.settings.default_max_minutes)
    for name in ("after", "after_any"):
        wanted.ClearField(name)
    wanted.notify[:] = from_lines(notify_targets.still_set(gateway, owner, to_lines(wanted.notify)))
    wanted = with_changes(wanted, request.changes, [name for name in request.changed if name != "notify"])
    wanted.task_id = f"{request.new_job_id}.{found.stored.name}"
    columns = submit_task.requested_task(gateway, wanted)
    stored = replace(found.stored, job_id=request.new_job_id, tasks=len(found.indices))
    needs = submit_flow.needs_of(
        stored, {it.stored.name: number for number, it in again.items() if it is not None}
    )
    package = KeptPackage(found.row.package_bytes, found.row.package_sha256)
    return submit_flow.part_of(gateway, owner, account, stored, columns, package, needs)


def _empty(step: StoredStep, job_id: str) -> StoredStep:
    """All of it has succeeded before."""
    return replace(step, job_id=job_id, tasks=0)


def _pieces(gateway: Gateway, job_id: str, found: _Again | None) -> list[str]:
    if found is None:
        return []
    first, indices = found.stored.first_index, found.indices
    some = [indices[start : start + PIECE_TASKS] for start in range(0, len(indices), PIECE_TASKS)]
    return [gateway.database.read(lambda c: flow_copies.piece(c, job_id, each, first)) for each in some]  # noqa: B023
