"""What `NodePoolClient` can do with jobs: a part of it, and nothing by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hivemind import jobs
from hivemind.array_upload import ArraySubmission, upload_array
from hivemind.jobs import JobInfo
from hivemind.models import TaskInfo
from hivemind.needs import TaskNeeds
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
        return upload_array(self._gateway, Path(source), sweep, wanted, job_id, max_cpt, progress, include)

    def jobs(self) -> Iterator[JobInfo]:
        """Your jobs, newest first, without their reasons and CPT. Pages are fetched as they are come to."""
        self._need_token()
        return jobs.pages(self._gateway)

    def job(self, job_id: str) -> JobInfo:
        """A job of yours: how many of its tasks are in which state, why, and what it cost so far."""
        self._need_token()
        return jobs.find(self._gateway, job_id)

    def job_tasks(self, job_id: str, *states: TaskState) -> Iterator[TaskInfo]:
        """A job's tasks by their indices, those in one of `states` (none: all)."""
        self._need_token()
        return jobs.tasks(self._gateway, job_id, states)

    def watch_job(self, job_id: str, *, timeout_seconds: float | None = None) -> Iterator[JobInfo]:
        """The job as it is, again and again, until all of its tasks have ended. Raises NotYetError."""
        self._need_token()
        return jobs.looks(self._gateway, job_id, timeout_seconds)

    def stop_job(self, job_id: str) -> int:
        """Ask that all tasks of a job be stopped; answers how many had not ended."""
        self._need_token()
        return jobs.stop(self._gateway, job_id)
