"""Jobs as the stores return them."""

from __future__ import annotations

from dataclasses import dataclass

from nodepool.domain.tasks.states import JobKind, TaskState
from nodepool.stores.sql.typed_rows import FromRow


@dataclass(frozen=True, slots=True)
class StoredJob(FromRow):
    """Tasks that belong together. `accepted_at` is None while they are put in, and nobody sees it then."""

    id: str
    owner_id: int
    kind: JobKind
    name: str
    labels: str  # JSON
    count: int
    array_count: int  # that its runs are told; 0: count
    resubmit_of: str  # the job that it does again
    digest: str
    max_cpt: int
    created_at: float
    accepted_at: float | None
    holder: str
    renewed_at: float
    hinted_at: float
    stop_requested: bool
    ended_at: float | None
    notify: str  # names of targets that are told of its end, one a line


@dataclass(frozen=True, slots=True)
class TaskOfJob(FromRow):
    """One task of a job, as the dispatcher goes through them."""

    id: str
    job_index: int


@dataclass(frozen=True, slots=True)
class JobReason:
    """How many tasks of a job are in a state for the same reason, and the first of them."""

    state: TaskState
    code: str
    words: str
    tasks: int
    first_index: int


@dataclass(frozen=True, slots=True)
class JobMoney:
    held: int = 0  # by tasks that have not ended
    paid: int = 0


@dataclass(frozen=True, slots=True)
class StoredStep(FromRow):
    """A step of a flow. Names of steps are one a line."""

    job_id: str
    number: int
    name: str
    is_array: bool
    tasks: int
    array_count: int  # that its runs are told
    first_index: int
    last_index: int
    needs: str
    needs_any: str
    inputs: str
