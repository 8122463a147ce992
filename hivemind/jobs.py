"""Jobs: many tasks with one id. What the SDK answers of them, and how it asks.

Times are Unix seconds, amounts CPT. Knows the connection and no command.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from hivemind.channel import GatewayChannel
from hivemind.errors import NotYetError, UnsupportedError
from hivemind.models import TaskInfo, state_from_word, state_told, task_from_list
from hivemind.told import NotificationInfo, notification_from_wire
from nodepool.domain.tasks.states import FINAL_TASK_STATES, TaskState
from nodepool.protocol import nodepool_pb2 as pb

_PAGE = 1000
#: How often a job that is waited for is looked at, at first and at the most.
FIRST_LOOK_SECONDS, LAST_LOOK_SECONDS = 0.5, 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonGroup:
    """Why so many tasks of a job wait, failed or were stopped; `first_index` is one of them."""

    state: TaskState
    reason: str
    tasks: int
    first_index: int
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInfo:
    """One step of a flow. Its tasks have these indices among those of the flow."""

    name: str
    tasks: int
    is_array: bool
    counts: Mapping[TaskState, int]
    needs: tuple[str, ...] = ()
    needs_any: tuple[str, ...] = ()
    first_index: int = 0
    last_index: int = 0

    @property
    def ended(self) -> int:
        return sum(count for state, count in self.counts.items() if state in FINAL_TASK_STATES)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInfo:
    """`held_cpt`, `paid_cpt` and `reasons` are told of a job that is asked for by its id."""

    job_id: str
    kind: str
    tasks: int
    counts: Mapping[TaskState, int]
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    created_at: float = 0.0
    ended_at: float | None = None
    stop_requested: bool = False
    held_cpt: int = 0
    paid_cpt: int = 0
    max_cpt: int = 0
    resubmit_of: str = ""  # the job that it does again
    worst_exit_code: int = 0  # of its tasks that failed; only of an end that is waited for
    reasons: tuple[ReasonGroup, ...] = ()
    steps: tuple[StepInfo, ...] = ()  # of a flow that is asked for by its id
    notify: tuple[str, ...] = ()  # targets that are told of its end
    notifications: tuple[NotificationInfo, ...] = ()  # what became of it; of one asked for by its id

    @property
    def ended(self) -> int:
        """So many tasks have ended, however they did."""
        return sum(count for state, count in self.counts.items() if state in FINAL_TASK_STATES)

    @property
    def final(self) -> bool:
        """Nothing of it is left to end. Tasks that were deleted or removed since are not counted any more."""
        return self.ended == sum(self.counts.values())

    def task_name(self, index: int) -> str:
        """The id of its task of this index."""
        for step in self.steps:
            if step.first_index <= index <= step.last_index:
                own = f".{index - step.first_index}" if step.is_array else ""
                return f"{self.job_id}.{step.name}{own}"
        return f"{self.job_id}.{index}"

    @property
    def succeeded(self) -> int:
        return self.counts.get(TaskState.SUCCEEDED, 0)

    def seconds_left(self, now: float) -> float | None:
        """At the pace since it was sent; None while nothing has ended, or everything has."""
        if not self.ended or self.final or not self.created_at:
            return None
        return max(0.0, now - self.created_at) / self.ended * (self.tasks - self.ended)


def find(gateway: GatewayChannel, job_id: str) -> JobInfo:
    with _known():
        answer = gateway.call(gateway.tasks.GetJob, pb.GetJobRequest(job_id=job_id))
    return job_from_wire(answer.job, answer.reasons, answer.steps)


def pages(gateway: GatewayChannel) -> Iterator[JobInfo]:
    """All of one's jobs, newest first; each page is asked for when it is come to."""
    token = ""
    while True:
        with _known():
            request = pb.ListJobsRequest(page_size=_PAGE, page_token=token)
            answer = gateway.call(gateway.tasks.ListJobs, request)
        yield from map(job_from_wire, answer.jobs)
        token = answer.next_page_token
        if not token:
            return


def tasks(
    gateway: GatewayChannel, job_id: str, states: Sequence[TaskState], step: str = ""
) -> Iterator[TaskInfo]:
    """By their indices; no state: all of them. `step`: of a flow, those of this step."""
    words = [state.value for state in states]
    following = 0
    while True:
        with _known():
            request = pb.ListJobTasksRequest(
                job_id=job_id, states=words, page_size=_PAGE, from_index=following, step=step
            )
            answer = gateway.call(gateway.tasks.ListJobTasks, request)
        yield from map(task_from_list, answer.tasks)
        following = answer.next_index
        if not following:
            return


def stop(gateway: GatewayChannel, job_id: str) -> int:
    with _known():
        return gateway.call(gateway.tasks.StopJob, pb.StopJobRequest(job_id=job_id)).stopped


def looks(gateway: GatewayChannel, job_id: str, timeout_seconds: float | None) -> Iterator[JobInfo]:
    """The job again and again, until all of its tasks have ended. Raises NotYetError after the time."""
    until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    pause = FIRST_LOOK_SECONDS
    while True:
        job = find(gateway, job_id)
        yield job
        if job.final:
            return
        left = pause if until is None else min(pause, until - time.monotonic())
        if left <= 0:
            raise NotYetError(f"the job {job_id} has not ended: {job.ended:,} of {job.tasks:,} tasks have")
        time.sleep(left)
        pause = min(pause * 1.5, LAST_LOOK_SECONDS)


@contextmanager
def _known() -> Iterator[None]:
    try:
        yield
    except UnsupportedError:
        raise UnsupportedError("this pool is too old for jobs") from None


def _counts(job: pb.Job | pb.JobStep) -> dict[TaskState, int]:
    counts = {state_from_word(word): count for word, count in job.counts.items()}
    if job.waiting:
        counts[TaskState.WAITING] = job.waiting
        counts[TaskState.QUEUED] = counts.get(TaskState.QUEUED, 0) - job.waiting
    return {state: count for state, count in counts.items() if count}


def job_from_wire(
    job: pb.Job, reasons: Sequence[pb.JobReason] = (), steps: Sequence[pb.JobStep] = ()
) -> JobInfo:
    return JobInfo(
        job_id=job.job_id,
        kind=job.kind,
        name=job.name,
        labels=dict(job.labels),
        tasks=job.tasks,
        counts=_counts(job),
        created_at=job.created_at,
        ended_at=job.ended_at or None,
        notify=tuple(job.notify),
        notifications=tuple(map(notification_from_wire, job.notifications)),
        stop_requested=job.stop_requested,
        held_cpt=job.held_cpt,
        paid_cpt=job.paid_cpt,
        max_cpt=job.max_cpt,
        resubmit_of=job.resubmit_of,
        worst_exit_code=job.worst_exit_code,
        reasons=tuple(
            ReasonGroup(
                state=state_told(each.state, waits_for_others=each.waits_for_others),
                code=each.code,
                reason=each.reason,
                tasks=each.tasks,
                first_index=each.first_index,
            )
            for each in reasons
        ),
        steps=tuple(
            StepInfo(
                name=each.name,
                tasks=each.tasks,
                is_array=each.is_array,
                needs=tuple(each.needs),
                needs_any=tuple(each.needs_any),
                counts=_counts(each),
                first_index=each.first_index,
                last_index=each.last_index,
            )
            for each in steps
        ),
    )
