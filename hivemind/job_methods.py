"""What `NodePoolClient` can do with jobs, and with what has ended: a part of it, and nothing by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hivemind import jobs
from hivemind.array_upload import ArraySubmission, upload_array
from hivemind.flow_upload import FlowSubmission, upload_flow
from hivemind.flows import TaskFlow
from hivemind.jobs import JobInfo
from hivemind.made import path_of
from hivemind.models import TaskInfo
from hivemind.needs import TaskNeeds
from hivemind.resubmitting import Resubmission, resubmit_job, resubmit_task
from hivemind.signed_in import SignedIn
from hivemind.sweeps import Sweep
from hivemind.uploading import Progress, silent
from nodepool.domain.tasks.states import TaskState


class JobMethods(SignedIn):
    def submit_array(
        self,
        source: str | Path,
        sweep: Sweep,
        needs: TaskNeeds | None = None,
        *,
        job_id: str = "",
        max_cpt: int = 0,
        progress: Progress = silent,
        include: Sequence[str] = (),
    ) -> ArraySubmission:
        """Send one package as many tasks, all accepted or none; see `hivemind.array_upload`."""
        self._need_token()
        wanted = needs or TaskNeeds()
        place = path_of(source, "the path")
        return upload_array(self._gateway, place, sweep, wanted, job_id, max_cpt, progress, include)

    def submit_flow(self, flow: TaskFlow, *, job_id: str = "", progress: Progress = silent) -> FlowSubmission:
        """Send a flow as one job, all of its steps accepted or none; see `hivemind.flows`."""
        self._need_token()
        return upload_flow(self._gateway, flow, job_id, progress)

    def jobs(self) -> Iterator[JobInfo]:
        """Your jobs, newest first, without their reasons and CPT. Pages are fetched as they are come to."""
        self._need_token()
        return jobs.pages(self._gateway)

    def job(self, job_id: str) -> JobInfo:
        """A job of yours: how many of its tasks are in which state, why, and what it cost so far."""
        self._need_token()
        return jobs.find(self._gateway, job_id)

    def job_tasks(self, job_id: str, *states: TaskState, step: str = "") -> Iterator[TaskInfo]:
        """A job's tasks by their indices, those in one of `states` (none: all), and of a flow's `step`."""
        self._need_token()
        return jobs.tasks(self._gateway, job_id, states, step)

    def watch_job(self, job_id: str, *, timeout_seconds: float | None = None) -> Iterator[JobInfo]:
        """The job as it is, again and again, until all of its tasks have ended. Raises NotYetError."""
        self._need_token()
        return jobs.looks(self._gateway, job_id, timeout_seconds)

    def stop_job(self, job_id: str) -> int:
        """Ask that all tasks of a job be stopped; answers how many had not ended."""
        self._need_token()
        return jobs.stop(self._gateway, job_id)

    def resubmit(self, task_id: str, *, new_task_id: str = "", **changes: Any) -> Resubmission:
        """Run a task that has ended once more: a new one with its package, which stays in the pool, and all
        that it was given. `changes` are fields of TaskNeeds, as `max_minutes=30`. One of a job gets a job of
        its own and keeps its index. The same `new_task_id` again changes nothing.

        Raises ConflictError while it has not ended or when its package is removed, and MissingError.
        """
        self._need_token()
        return resubmit_task(self._gateway, task_id, new_task_id, changes)

    def resubmit_job(
        self,
        job_id: str,
        *states: TaskState,
        indices: Sequence[int] = (),
        new_job_id: str = "",
        max_cpt: int = 0,
        **changes: Any,
    ) -> ArraySubmission:
        """Run those tasks of a job once more that ended in one of `states` (none: all that have ended) and
        are among `indices` (none: all): a new job, whose tasks keep index and values. All or none.

            pool.resubmit_job(job_id, TaskState.FAILED)
        """
        self._need_token()
        return resubmit_job(self._gateway, job_id, states, indices, new_job_id, max_cpt, changes)
