"""Stored results that are compared: what is to be read for their digests, and what is not kept of them.

The pool makes the digests itself; a node's word is not asked for. A hostile result costs much to read, so
that is done elsewhere (nodepool.heavy): here is only what to read, and what becomes of the answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from nodepool.domain.ends.attempt_end import End
from nodepool.domain.ends.task_runs import TaskRun
from nodepool.domain.errors import CorruptFileError, NodePoolError, NotFoundError, UnavailableError
from nodepool.domain.tasks.states import FINAL_TASK_STATES, Outcome, TaskState, Verification
from nodepool.domain.trust import result_digest
from nodepool.domain.trust.result_digest import Ran
from nodepool.heavy.worker import OutOfBoundsError, WorkerEndedError
from nodepool.stores.files.encryption import Sealed
from nodepool.stores.files.file_store import FileStore
from nodepool.stores.sql import attempts as attempt_records, replicas as replica_store, tasks as task_store
from nodepool.stores.sql.database import Connection, Database
from nodepool.stores.sql.task_rows import OwnedTask, TaskOfAttempt

log = logging.getLogger(__name__)
_COMPARED = frozenset({Outcome.SUCCEEDED, Outcome.FAILED})
_OUTCOMES = {TaskState.SUCCEEDED: Outcome.SUCCEEDED, TaskState.FAILED: Outcome.FAILED}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A digest to be made: by nodepool.heavy.jobs.digest of these arguments."""

    attempt_id: str
    ran: Ran
    result: Sealed | None
    package: Sealed | None
    patterns: tuple[str, ...]
    max_bytes: int
    task_id: str = ""  # of a result that was kept without one, because it was not known that it is checked

    @property
    def arguments(self) -> tuple[Any, ...]:
        return self.ran, self.result, self.package, self.patterns, self.max_bytes

    def or_unlike(self, made: str | None) -> str:
        """What was made of it; one that cannot be read agrees with nobody."""
        if made is None:
            log.info("the result of %s cannot be compared", self.attempt_id)
        return made or result_digest.unlike_any_other(self.attempt_id)


# How a digest is made: the job's answer, or what it raises (see nodepool.heavy.processes).
Make: TypeAlias = Callable[[Wanted], str | None]


def wanted(
    database: Database, files: FileStore, attempt_id: str, end: End, *, max_bytes: int
) -> list[Wanted]:
    """What is to be made before this end of the attempt is told; the last is its own. Nothing where nobody
    compares.

    `max_bytes` is the most that is unpacked. Raises UnavailableError.
    """
    if end.outcome not in _COMPARED:
        return []
    run = database.read(lambda connection: attempt_records.task_of(connection, attempt_id))
    if run is None or not run.parent_id:
        return []
    ran = Ran(outcome=end.outcome, exit_code=end.exit_code)
    own = _wanted(files, run, attempt_id, ran, has_result=end.has_result, max_bytes=max_bytes)
    earlier = _earlier(database, files, run.parent_id, max_bytes)
    return [earlier, own] if earlier is not None else [own]


def _earlier(database: Database, files: FileStore, task_id: str, max_bytes: int) -> Wanted | None:
    task = database.read(lambda connection: task_store.find_or_none(connection, task_id))
    if task is None or task.replicas > 1 or task.result_digest or task.state not in _OUTCOMES:
        return None
    ran = Ran(outcome=_OUTCOMES[task.state], exit_code=task.exit_code)
    attempt_id = database.read(lambda c: attempt_records.id_of(c, task_id, task.attempt_number))
    has_result = bool(task.result_attempt)
    made = _wanted(files, task, attempt_id, ran, has_result=has_result, max_bytes=max_bytes)
    return replace(made, task_id=task_id)


def check_unchanged(files: FileStore, want: Wanted) -> None:
    """Raises UnavailableError where another result took this one's place while it was read."""
    if want.result is None or not want.result.path:
        return
    try:
        same = files.sealed_result(want.attempt_id) == want.result
    except (NotFoundError, CorruptFileError):
        same = False
    if not same:
        raise UnavailableError("the result was changed while it was looked at; tell the end again")


def keep(database: Database, want: Wanted, digest: str) -> None:
    """The digest of a result that was kept without one."""
    database.write(lambda connection: replica_store.keep_digest(connection, want.task_id, digest))


def with_digest(
    database: Database, files: FileStore, attempt_id: str, end: End, *, max_bytes: int, make: Make
) -> End:
    """This end of the attempt with the digest of its stored result, where that is compared.

    For a thread that may wait. Raises UnavailableError, and what `make` raises but OutOfBoundsError.
    """
    for want in wanted(database, files, attempt_id, end, max_bytes=max_bytes):
        digest = want.or_unlike(_made(make, want))
        if want.task_id:
            keep(database, want, digest)
        else:
            end = replace(end, digest=digest)
            check_unchanged(files, want)
    return end


def _made(make: Make, want: Wanted) -> str | None:
    try:
        return make(want)
    except WorkerEndedError:
        # Others can end a process, too; the second time it was the result.
        try:
            return make(want)
        except OutOfBoundsError:
            return None
    except OutOfBoundsError:
        return None


def forget_losers(database: Database, files: FileStore, attempt_id: str) -> None:
    """After the end of this attempt: of several results of a task only the one that is the task's is kept."""
    try:
        of = database.read(lambda connection: attempt_records.task_of(connection, attempt_id))
        if of is None:
            return
        if not of.parent_id:
            if of.state is TaskState.QUEUED and of.result_attempt != attempt_id:
                files.delete_result(attempt_id)  # of a try that failed; the next one has another
            return
        parent_id = str(of.parent_id)
        losers, false_result = database.read(lambda connection: _losers(connection, parent_id))
        if false_result:
            files.delete_result(false_result)
        for run in losers:
            files.delete_result(run.result_attempt)
        forgotten = [run.id for run in losers]
        if forgotten:
            database.write(lambda c: replica_store.forget_results(c, forgotten))
    except NodePoolError as error:
        log.warning("results beside that of %s that are not its own stay on the disk: %s", attempt_id, error)


def _losers(connection: Connection, parent_id: str) -> tuple[list[TaskRun], str]:
    """Runs with a result that is not their task's, and an attempt of the task itself that was false."""
    parent = task_store.find_or_none(connection, parent_id)
    if parent is None or parent.state not in FINAL_TASK_STATES or parent.verification == Verification.PENDING:
        return [], ""
    own = attempt_records.id_of(connection, parent.id, parent.attempt_number)
    losers = [
        run
        for run in replica_store.runs_of(connection, parent_id)
        if run.state in FINAL_TASK_STATES and run.result_attempt not in {"", parent.result_attempt}
    ]
    return losers, own if parent.replicas == 1 and parent.result_attempt != own else ""


def _wanted(
    files: FileStore,
    task: OwnedTask | TaskOfAttempt,
    attempt_id: str,
    ran: Ran,
    *,
    has_result: bool,
    max_bytes: int,
) -> Wanted:
    patterns = tuple(task.compare_outputs.splitlines())
    result = package = None
    try:
        if has_result:
            result = files.sealed_result(attempt_id)
            package = None if patterns else files.sealed_package(task.package_sha256)
    except (NotFoundError, CorruptFileError) as error:
        log.info("the result of %s is not as it was: %s", attempt_id, error)
        # Nothing can be opened with it, and so it agrees with nobody.
        result = Sealed("", b"")
    return Wanted(attempt_id, ran, result, package, patterns, max_bytes)
