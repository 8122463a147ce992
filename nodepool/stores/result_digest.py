"""Stored results that are compared: their digests, which the pool makes itself, and what is not kept of them.

A node's word of its result's digest is not asked for.
"""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, update

from nodepool import comparing
from nodepool.comparing import IncomparableError, Ran
from nodepool.errors import NodePoolError, NotFoundError
from nodepool.stores import attempt_records, replica_store, task_store
from nodepool.stores.database import Database
from nodepool.stores.files import FileStore
from nodepool.stores.tables import tasks
from nodepool.stores.task_store import End
from nodepool.task import FINAL_TASK_STATES, Outcome, TaskState, Verification

log = logging.getLogger(__name__)
# A hostile result costs much more memory and time than an honest one: not many at once.
_AT_ONCE = threading.Semaphore(2)
_COMPARED = frozenset({Outcome.SUCCEEDED, Outcome.FAILED})
_OUTCOMES = {TaskState.SUCCEEDED: Outcome.SUCCEEDED, TaskState.FAILED: Outcome.FAILED}


def with_digest(database: Database, files: FileStore, attempt_id: str, end: End, *, max_bytes: int) -> End:
    """This end of the attempt with the digest of its stored result, where that is compared.

    `max_bytes` is the most that is unpacked of it. Raises UnavailableError or StorageFullError.
    """
    if end.outcome not in _COMPARED:
        return end
    run = database.read(lambda connection: attempt_records.task_of(connection, attempt_id))
    if run is None or not run.parent_id:
        return end
    _complete(database, files, run.parent_id, max_bytes)
    ran = Ran(outcome=end.outcome, exit_code=end.exit_code)
    digest = _digest(files, run, attempt_id, ran, has_result=end.has_result, max_bytes=max_bytes)
    return replace(end, digest=digest)


def _complete(database: Database, files: FileStore, task_id: str, max_bytes: int) -> None:
    """The digest of a result that was kept without one, because it was not known that it is checked."""
    task = database.read(lambda connection: task_store.find_or_none(connection, task_id))
    if task is None or task.replicas > 1 or task.result_digest or task.state not in _OUTCOMES:
        return
    ran = Ran(outcome=_OUTCOMES[task.state], exit_code=task.exit_code)
    attempt_id = database.read(lambda c: attempt_records.id_of(c, task_id, task.attempt_number))
    has_result = bool(task.result_attempt)
    digest = _digest(files, task, attempt_id, ran, has_result=has_result, max_bytes=max_bytes)
    query = update(tasks).where(tasks.c.id == task_id, tasks.c.result_digest == "")
    database.write(lambda connection: connection.execute(query.values(result_digest=digest)))


def forget_losers(database: Database, files: FileStore, attempt_id: str) -> None:
    """After the end of this attempt: of several results of a task only the one that is the task's is kept."""
    try:
        of = database.read(lambda connection: attempt_records.task_of(connection, attempt_id))
        if of is None or not of.parent_id:
            return
        parent_id = str(of.parent_id)
        losers, false_result = database.read(lambda connection: _losers(connection, parent_id))
        if false_result:
            files.delete_result(false_result)
        for run in losers:
            files.delete_result(run.result_attempt)
        forgotten = [run.id for run in losers]
        if forgotten:
            database.write(lambda c: c.execute(_FORGET.where(tasks.c.id.in_(forgotten))))
    except NodePoolError as error:
        log.warning("results beside that of %s that are not its own stay on the disk: %s", attempt_id, error)


_FORGET = update(tasks).values(result_attempt="", result_bytes=0)


def _losers(connection: Connection, parent_id: str) -> tuple[list[Row[Any]], str]:
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


def _digest(
    files: FileStore, task: Row[Any], attempt_id: str, ran: Ran, *, has_result: bool, max_bytes: int
) -> str:
    patterns = task.compare_outputs.splitlines()
    with ExitStack() as stack:
        stack.enter_context(_AT_ONCE)
        try:
            result = package = None
            if has_result:
                result = stack.enter_context(files.seekable(files.open_result(attempt_id)))
            if has_result and not patterns:
                package = stack.enter_context(files.seekable(files.open_package(task.package_sha256)))
            return comparing.digest(ran, result, package, patterns, max_bytes)
        except (IncomparableError, NotFoundError) as error:
            log.info("the result of %s cannot be compared: %s", attempt_id, error)
            return comparing.unlike_any_other(attempt_id)
