"""Jobs as the protocol shows them."""

from __future__ import annotations

from gateway.usecases.jobs import ShownJob
from nodepool.domain.tasks.run_inputs import mapping_from_json
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql.job_rows import JobReason


def job(shown: ShownJob) -> pb.Job:
    row = shown.job
    return pb.Job(
        job_id=row.id,
        kind=row.kind,
        name=row.name,
        labels=mapping_from_json(row.labels),
        tasks=row.count,
        counts=shown.counts,
        created_at=row.created_at,
        ended_at=row.ended_at or 0,
        stop_requested=row.stop_requested,
        held_cpt=shown.money.held,
        paid_cpt=shown.money.paid,
        max_cpt=row.max_cpt,
        resubmit_of=row.resubmit_of,
        worst_exit_code=shown.worst_exit_code,
    )


def reason(row: JobReason) -> pb.JobReason:
    return pb.JobReason(
        state=row.state, code=row.code, reason=row.words, tasks=row.tasks, first_index=row.first_index
    )


def sentence(shown: ShownJob) -> str:
    """For clients that show `message`."""
    parts = [f"{count} {state.lower()}" for state, count in sorted(shown.counts.items())]
    return f"job {shown.job.id}: {shown.job.count} tasks" + (f": {', '.join(parts)}" if parts else "")
