"""The steps of tasks and jobs: to send them, to wait for them, and to take what came of them.

One text for `Pool` and `AsyncPool`. What is asked for and how often is decided here; nothing is shown.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any

from hivemind import jobs
from hivemind.array_upload import ArraySubmission, array_steps
from hivemind.downloading import fetch_steps
from hivemind.errors import BadResultError, ConflictError, MissingError, NotYetError, UnreachableError
from hivemind.functions.errors import NotAgreedError, TaskFailedError
from hivemind.functions.outcome import Taking, value_of
from hivemind.functions.packing import COMPARED, FunctionWork, packed
from hivemind.job_results import place_of
from hivemind.models import ResultInfo, Submission, TaskInfo, task_from_list, task_from_poll
from hivemind.needs import TaskNeeds, needs_to_wire
from hivemind.steps import Call, Came, LocalWork, Pause, Steps, Together
from hivemind.sweeps import Sweep
from hivemind.uploading import silent, upload_steps
from hivemind.watching import PATIENCE_SECONDS
from hivemind.zip_unpack import MAX_UNPACKED_BYTES
from nodepool.domain.errors import InvalidInputError
from nodepool.domain.ids import check_task_id
from nodepool.domain.tasks.states import FINAL_TASK_STATES, TaskState, Verification
from nodepool.protocol import nodepool_pb2 as pb

# Between two looks: at first, at the most, and as a share of the time since something ended.
_FIRST_SECONDS, _MOST_SECONDS, _SHARE = 0.1, 5.0, 0.1
_PAGE = 1000
RESULTS_AT_ONCE = 8
_HASHES_ALIKE = {"PYTHONHASHSEED": "0"}
_STANDS = frozenset({Verification.AGREED, Verification.AUDITED})


def send(
    found: Path | FunctionWork, needs: TaskNeeds, task_id: str, include: Sequence[str]
) -> Steps[Submission]:
    if isinstance(found, Path):
        return (yield from upload_steps(found, task_id, needs, silent, include))
    return (yield from send_call(found, needs, task_id))


def send_call(function: FunctionWork, needs: TaskNeeds, task_id: str) -> Steps[Submission]:
    with packed(function) as package:
        return (yield from upload_steps(package, task_id, for_objects(needs, function), silent))


def send_items(function: FunctionWork, needs: TaskNeeds, job_id: str, max_cpt: int) -> Steps[ArraySubmission]:
    sweep = Sweep((), tuple((index, ()) for index in range(len(function.items))))
    with packed(function) as package:
        wanted = for_objects(needs, function)
        return (yield from array_steps(package, sweep, wanted, job_id, max_cpt, silent))


def send_array(
    source: Path, sweep: Sweep, needs: TaskNeeds, job_id: str, max_cpt: int, include: Sequence[str]
) -> Steps[ArraySubmission]:
    return (yield from array_steps(source, sweep, needs, job_id, max_cpt, silent, include))


def for_objects(needs: TaskNeeds, function: FunctionWork) -> TaskNeeds:
    """Two runs of one function are to give the same bytes, whoever asks for a second one; and people see
    its name."""
    return replace(
        needs,
        name=needs.name or function.name[:128],
        environment={**_HASHES_ALIKE, **needs.environment},
        compare_outputs=tuple(dict.fromkeys((*needs.compare_outputs, *COMPARED))),
    )


# -- one task ------------------------------------------------------------------------------------------


def look(task_id: str) -> Steps[TaskInfo]:
    return task_from_poll((yield Call("tasks", "PollTaskStatus", pb.PollTaskStatusRequest(task_id=task_id))))


def wait(task_id: str, timeout: float | None) -> Steps[TaskInfo]:
    waiting = Waiting(timeout)
    while True:
        try:
            task = yield from look(task_id)
            waiting.answered()
            if task.final:
                return task
        except UnreachableError as error:
            waiting.unreachable(error)
        yield Pause(waiting.pause(f"the task {task_id} has not ended"))


def logs(task_id: str) -> Steps[str]:
    answer = yield Call("tasks", "GetTaskLogs", pb.GetTaskLogsRequest(task_id=task_id))
    if not answer.success:
        raise MissingError(answer.message or None)
    return str(answer.logs)


def stop(task_id: str) -> Steps[str]:
    answer = yield Call("tasks", "StopTask", pb.StopTaskRequest(task_id=task_id))
    if not answer.success:
        raise ConflictError(answer.message or None)
    return str(answer.message)


def resubmit(task_id: str, new_id: str, changes: tuple[TaskNeeds, Sequence[str]]) -> Steps[str]:
    """The new task's id."""
    request = pb.ResubmitTaskRequest(
        task_id=task_id, new_task_id=new_id, changes=needs_to_wire(changes[0]), changed=changes[1]
    )
    answer = yield Call("tasks", "ResubmitTask", request)
    return str(answer.task_id)


def resubmit_job(
    job_id: str,
    new_id: str,
    states: Iterable[TaskState],
    max_cpt: int,
    changes: tuple[TaskNeeds, Sequence[str]],
) -> Steps[jobs.JobInfo]:
    """The new job."""
    request = pb.ResubmitJobRequest(
        job_id=job_id,
        new_job_id=new_id,
        states=sorted(state.value for state in states),
        changes=needs_to_wire(changes[0]),
        changed=changes[1],
        max_cpt=max_cpt,
    )
    answer = yield Call("tasks", "ResubmitJob", request)
    return (yield from look_job(answer.job_id))


def files(task_id: str, destination: Path, *, overwrite: bool = False) -> Steps[ResultInfo]:
    """The task's files, unpacked."""
    result = yield from fetch_steps(
        task_id,
        destination,
        unpack_into=True,
        overwrite=overwrite,
        max_unpacked_bytes=MAX_UNPACKED_BYTES,
        progress=silent,
    )
    return result


def outcome(task: TaskInfo, taking: Taking, *, objects: bool) -> Steps[Any]:
    try:
        # It becomes the name of a directory, and these may be a pool's own words.
        check_task_id(task.task_id)
    except InvalidInputError as error:
        raise BadResultError(f"the pool named {task.task_id[:80]!r} as a task") from error
    return (yield from (value if objects else kept_files)(task, taking))


def kept_files(task: TaskInfo, taking: Taking) -> Steps[ResultInfo]:
    """The same in its usual place, once. Raises TaskFailedError where the task did not succeed."""
    check_succeeded(task)
    there = taking.files / task.task_id
    if there.is_dir():
        names = sorted(path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file())
        return ResultInfo(
            task_id=task.task_id, path=there, result_bytes=task.result_bytes, files=tuple(names)
        )
    return (yield from files(task.task_id, there))


def value(task: TaskInfo, taking: Taking) -> Steps[Any]:
    """What the function answered; its exception is raised. Unpickles, and only what stands."""
    check_may_be_unpickled(task)
    if task.state is TaskState.STOPPED or not task.has_result:
        check_succeeded(task)
    with tempfile.TemporaryDirectory(prefix="hivemind-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch, "result")
        try:
            yield from files(task.task_id, folder)
            found = yield LocalWork(lambda: value_of(folder, task.task_id, taking))
        except TaskFailedError as error:
            error.task = task
            if error.code == TaskFailedError.code and task.state is not TaskState.SUCCEEDED:
                error.args = (f"{error} ({task.reason})",)
            raise
    check_succeeded(task)
    return found


def check_succeeded(task: TaskInfo) -> None:
    if task.state is not TaskState.SUCCEEDED:
        what = "was stopped" if task.state is TaskState.STOPPED else "failed"
        raise TaskFailedError(
            f"the task {task.task_id} {what}" + (f": {task.reason}" if task.reason else ""),
            hint=f"see its output with `hivemind logs {task.task_id}`",
            task=task,
        )


def check_may_be_unpickled(task: TaskInfo) -> None:
    """Of several runs only what enough agreed on, of one that is checked only what was found good."""
    if task.state is not TaskState.SUCCEEDED:
        # What it left says why; a function that failed on one node has not failed on all.
        allowed = task.replicas == 1 or task.verification in _STANDS
    else:
        allowed = task.verification in _STANDS or (task.replicas == 1 and not task.verification)
    if not allowed:
        word = task.verification or "not compared"
        raise NotAgreedError(
            f"the result of {task.task_id} is {word}, and only one that its runs agree on is unpickled",
            hint=f"fetch its files with `hivemind result {task.task_id}`",
        )


# -- waiting -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Waiting:
    """How long it is waited before the next look, and when it is given up."""

    timeout: float | None
    began: float = field(default_factory=monotonic)
    _quiet_since: float = field(default_factory=monotonic)
    _answered_at: float | None = None

    def answered(self, *, news: bool = False) -> None:
        now = self._answered_at = monotonic()
        if news:
            self._quiet_since = now

    def unreachable(self, error: UnreachableError) -> None:
        """As long as its nodes keep what they run, a pool that is away is waited for. Raises the error of
        one that never answered: its address may be wrong."""
        if self._answered_at is None or monotonic() - self._answered_at > PATIENCE_SECONDS:
            raise error

    def pause(self, words: str) -> float:
        """Raises NotYetError with these words when the time is over."""
        now = monotonic()
        seconds = min(max(_FIRST_SECONDS, _SHARE * (now - self._quiet_since)), _MOST_SECONDS)
        if self.timeout is None:
            return seconds
        left = self.began + self.timeout - now
        if left <= 0:
            raise NotYetError(words)
        return min(seconds, left)


class Following:
    """Which tasks of a job have ended, each told once."""

    def __init__(self, job_id: str, timeout: float | None = None) -> None:
        self.job = jobs.JobInfo(job_id=job_id, kind="", tasks=0, counts={})
        self._known = False
        self._waiting = Waiting(timeout)
        self._seen: set[int] = set()  # of those that come after the first that has not ended
        self._first_open = 0
        self._told = 0

    def next(self) -> Steps[list[TaskInfo]]:
        """Those that have ended since the last time, and at least one; none when all have been told."""
        while True:
            try:
                found = yield from self.look()
                if found or self.is_over:
                    return found
            except UnreachableError as error:
                self._waiting.unreachable(error)
            yield Pause(self._waiting.pause(self._words()))

    def look(self) -> Steps[list[TaskInfo]]:
        """The same without waiting."""
        self.job = yield from look_job(self.job.job_id)
        self._known = True
        found: list[TaskInfo] = []
        if self.job.ended > self._told:
            found = yield from self._ended()
        if self._told > self.job.ended:
            # Some have ended since they were counted: what is told of the job is not older than its tasks.
            self.job = yield from look_job(self.job.job_id)
        self._waiting.answered(news=bool(found))
        return found

    @property
    def is_over(self) -> bool:
        return self._known and self._told >= self.job.tasks

    def _ended(self) -> Steps[list[TaskInfo]]:
        found = []
        entries = yield from tasks_of(self.job.job_id, FINAL_TASK_STATES, self._first_open)
        for task in entries:
            index = index_of(self.job.job_id, task)
            if index >= self._first_open and index not in self._seen:
                self._seen.add(index)
                found.append(task)
        while self._first_open in self._seen:
            self._seen.discard(self._first_open)
            self._first_open += 1
        self._told += len(found)
        return found

    def _words(self) -> str:
        return f"the job {self.job.job_id} has not ended: {self.job.ended:,} of {self.job.tasks:,} tasks have"


def tasks_of(job_id: str, states: Iterable[TaskState], from_index: int = 0) -> Steps[list[TaskInfo]]:
    """By their indices; no state: all of them."""
    words = sorted(state.value for state in states)
    found: list[TaskInfo] = []
    following = from_index
    while True:
        request = pb.ListJobTasksRequest(job_id=job_id, states=words, page_size=_PAGE, from_index=following)
        answer = yield Call("tasks", "ListJobTasks", request)
        found += map(task_from_list, answer.tasks)
        following = answer.next_index
        if not following:
            return found


def index_of(job_id: str, task: TaskInfo) -> int:
    """Its place among all tasks of its job, whatever their steps are. Raises BadResultError for another
    one's."""
    place = place_of(job_id, task.task_id)
    return task.job_index if task.job_id else place.index


def stop_job(job_id: str) -> Steps[int]:
    answer = yield Call("tasks", "StopJob", pb.StopJobRequest(job_id=job_id))
    return int(answer.stopped)


def look_job(job_id: str) -> Steps[jobs.JobInfo]:
    answer = yield Call("tasks", "GetJob", pb.GetJobRequest(job_id=job_id))
    return jobs.job_from_wire(answer.job, answer.reasons, answer.steps)


def came_of(
    job_id: str, tasks: Sequence[TaskInfo], taking: Taking, *, objects: bool
) -> Steps[dict[int, Came]]:
    """Of each task, by its index, what it answered or its exception. Several at once."""
    parts = [outcome(task, taking, objects=objects) for task in tasks]
    found: list[Came] = yield Together(parts, RESULTS_AT_ONCE)
    return {index_of(job_id, task): came for task, came in zip(tasks, found, strict=True)}


def in_order(found: Mapping[int, Came], *, return_exceptions: bool) -> list[Any]:
    """By index. The first exception is raised, where they are not asked for."""
    ordered = [found[index] for index in sorted(found)]
    if not return_exceptions:
        return [came.get() for came in ordered]
    return [came.value if came.error is None else came.error for came in ordered]
