"""Jobs as the protocol shows them."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.told_messages import notification
from gateway.usecases.jobs import ShownJob
from nodepool.domain.tasks.dependencies import from_lines
from nodepool.domain.tasks.run_inputs import mapping_from_json
from nodepool.domain.tasks.states import TaskState
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql.job_rows import JobReason, StoredStep
from nodepool.wire import state_to_wire


def job(shown: ShownJob) -> pb.Job:
    row = shown.job
    return pb.Job(
        job_id=row.id,
        kind=row.kind,
        name=row.name,
        labels=mapping_from_json(row.labels),
        tasks=row.count,
        counts=_counts(shown.counts),
        waiting=shown.counts.get(TaskState.WAITING, 0),
        created_at=row.created_at,
        ended_at=row.ended_at or 0,
        stop_requested=row.stop_requested,
        held_cpt=shown.money.held,
        paid_cpt=shown.money.paid,
        max_cpt=row.max_cpt,
        resubmit_of=row.resubmit_of,
        worst_exit_code=shown.worst_exit_code,
        notify=from_lines(row.notify),
        notifications=map(notification, shown.told),
    )


def step(row: StoredStep, shown: ShownJob) -> pb.JobStep:
    counts = shown.step_counts.get(row.number, {})
    return pb.JobStep(
        name=row.name,
        tasks=row.tasks,
        is_array=row.is_array,
        needs=from_lines(row.needs),
        needs_any=from_lines(row.needs_any),
        counts=_counts(counts),
        waiting=counts.get(TaskState.WAITING, 0),
        first_index=row.first_index,
        last_index=row.last_index,
    )


def _counts(told: Mapping[str, int]) -> dict[str, int]:
    """By the states that clients have always known."""
    counts: dict[str, int] = {}
    for state, count in told.items():
        word = state_to_wire(TaskState(state))
        counts[word] = counts.get(word, 0) + count
    return counts


def reason(row: JobReason) -> pb.JobReason:
    return pb.JobReason(
        state=state_to_wire(row.state),
        waits_for_others=row.state is TaskState.WAITING,
        code=row.code,
        reason=row.words,
        tasks=row.tasks,
        first_index=row.first_index,
    )


def sentence(shown: ShownJob) -> str:
    """For clients that show `message`."""
    parts = [f"{count} {state.lower()}" for state, count in sorted(shown.counts.items())]
    return f"job {shown.job.id}: {shown.job.count} tasks" + (f": {', '.join(parts)}" if parts else "")
