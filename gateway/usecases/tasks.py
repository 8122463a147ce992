"""What owners ask of their tasks: how they are, what they said, what they made, and to stop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from gateway.auth.callers import whose_work
from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from gateway.messages import is_final, is_held_back
from gateway.usecases import removal, storage_quota
from nodepool.domain import ids
from nodepool.domain.ends.effects import FollowUp
from nodepool.domain.errors import CorruptFileError, NodePoolError, NotFoundError, UnavailableError
from nodepool.domain.nodes.node import NodeKind
from nodepool.domain.tasks.states import TaskKind, TaskState
from nodepool.heavy import jobs
from nodepool.heavy.worker import OutOfBoundsError
from nodepool.stores.redis.output import OutputWindow
from nodepool.stores.sql import (
    attempts as attempt_records,
    held_back_results,
    jobs as job_store,
    nodes as node_store,
    tasks as task_store,
)
from nodepool.stores.sql.attempt_rows import PastAttempt
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.task_rows import OwnedTask, ShownRun, WholeTask
from nodepool.workflows import replica_vote
from nodepool.workflows.decision import deciding

log = logging.getLogger(__name__)
_MAX_LISTED = 1000
# The agent adds a notice after the output that it cut.
_NOTICE_BYTES = 4096
_ANOTHER_RUN = 1000
_SMALL_RESULT_BYTES = 256 << 10


def find_own(gateway: Gateway, identity: CallerIdentity | None, task_id: str) -> WholeTask:
    """The task, when it is the caller's; without an identity (anonymous reads are on) any task."""
    row = gateway.database.read(lambda connection: task_store.find_or_none(connection, task_id))
    if (
        row is None
        or row.kind != TaskKind.USER
        or (identity is not None and row.owner_id != identity.user_id)
    ):
        # One answer, whether it is not there or another's.
        raise removal.not_there(gateway, identity, task_id)
    on_its_way = row.job_id and not gateway.database.read(lambda c: job_store.is_accepted(c, row.job_id))
    if row.deleted_at or on_its_way:
        raise removal.not_there(gateway, identity, task_id)
    return row


def list_own(gateway: Gateway, identity: CallerIdentity) -> Sequence[OwnedTask]:
    return gateway.database.read(
        lambda connection: task_store.of_owner(connection, identity.user_id, _MAX_LISTED)
    )


def attempts_of_task(gateway: Gateway, row: OwnedTask) -> Sequence[PastAttempt]:
    """How its last attempts went, oldest first."""
    if not row.attempt_number or row.replicas > 1:
        return ()
    return gateway.database.read(lambda connection: attempt_records.of_task(connection, row.id))


def runs_of_task(gateway: Gateway, row: OwnedTask) -> Sequence[ShownRun]:
    """Of a task whose results are compared, its runs by number."""
    if not row.verification:
        return ()
    return gateway.database.read(lambda connection: task_store.runs_shown(connection, row.id))


def attempt_of(gateway: Gateway, row: OwnedTask) -> str:
    """The attempt whose output is the task's: the one with the result, else the current one.

    Of a task with several runs it is that of the run that began first.
    """
    if row.result_attempt:
        return row.result_attempt
    if not row.attempt_number:
        return ""
    return gateway.database.read(lambda connection: _current_attempt(connection, row))


def _current_attempt(connection: Connection, row: OwnedTask) -> str:
    if row.replicas == 1:
        return attempt_records.id_of(connection, row.id, row.attempt_number)
    run = task_store.find(connection, ids.run_id(row.id, row.attempt_number))
    return attempt_records.id_of(connection, run.id, run.attempt_number)


def attempt_number_of(gateway: Gateway, row: OwnedTask, attempt: str) -> int:
    """Another attempt has a larger one, also where the result is another run's than the one watched."""
    found = gateway.database.read(lambda connection: attempt_records.task_of(connection, attempt))
    if found is None:
        return 0
    run = ids.run_number(found.id)
    watched = row.attempt_number if row.replicas > 1 else 0
    return found.number + (_ANOTHER_RUN * run if run != watched else 0)


async def output_of(gateway: Gateway, row: OwnedTask, offset: int = 0) -> OutputWindow:
    """The output kept: while it runs the live window, at the end all of it, from the result."""
    window, attempt = await gateway.run(window_of, gateway, row, offset)
    return await whole_output(gateway, row, window, attempt)


def window_of(gateway: Gateway, row: OwnedTask, offset: int = 0) -> tuple[OutputWindow, str]:
    """The live window, and the attempt in whose result or log there is more than that; else empty."""
    attempt = attempt_of(gateway, row)
    if not attempt:
        return OutputWindow(0, b""), ""
    if row.files_removed_at:
        return removal.kept_output(gateway, row, attempt), ""
    window = OutputWindow(0, b"")
    try:
        window = gateway.outputs.window(attempt)
    except UnavailableError:
        if not is_final(row):
            raise
    covered = window.data and window.base <= offset <= window.end
    if not is_final(row) or covered:
        return window, ""
    return window, attempt


async def whole_output(gateway: Gateway, row: OwnedTask, window: OutputWindow, attempt: str) -> OutputWindow:
    """What window_of found, or the output in the attempt's result or log where there is more."""
    if not attempt:
        return window
    # A worker without an agent may have told the pool more than its result says, or less.
    told = await gateway.run(_log_of, gateway, attempt)
    packed = await _output_in_result(gateway, row, attempt) if row.result_attempt else b""
    data = max(packed, told, key=len)
    return OutputWindow(0, data) if data else window


def _log_of(gateway: Gateway, attempt: str) -> bytes:
    """What is kept of output that no result has."""
    try:
        return gateway.files.log_bytes(attempt)
    except (NotFoundError, CorruptFileError):
        return b""


async def _output_in_result(gateway: Gateway, row: OwnedTask, attempt: str) -> bytes:
    most = gateway.settings.max_output_bytes + _NOTICE_BYTES
    try:
        result = await gateway.run(gateway.files.sealed_result, attempt)
        # Results are made on strangers' machines: larger ones are opened where that may cost much.
        if row.result_bytes <= _SMALL_RESULT_BYTES:
            return await gateway.run(jobs.output, result, most)
        return await gateway.run_heavy(whose_work(), jobs.output, result, most)
    except (NotFoundError, CorruptFileError, OutOfBoundsError) as error:
        log.info("the result of %s has no output: %s", attempt, error)
        return b""


def stop(gateway: Gateway, identity: CallerIdentity, task_id: str) -> OwnedTask:
    """Ask for the task's end; returns it as it was before. A stop is state; the hint only hurries it."""
    find_own(gateway, identity, task_id)
    return stop_found(gateway, task_id)


def stop_found(
    gateway: Gateway, task_id: str, beside: Callable[[Connection], None] = lambda _connection: None
) -> OwnedTask:
    """The same, where whoever asks may. `beside` is kept with the wish, or neither is."""
    with_what = deciding(gateway.settings, gateway.clock())

    def work(connection: Connection) -> tuple[OwnedTask, FollowUp | None]:
        beside(connection)
        return replica_vote.stop(connection, task_id, with_what)

    row, follow = gateway.database.write(work, sharing=ledger_store.TOGETHER)
    if is_final(row):
        return row
    if is_held_back(row):
        _give_now(gateway, row)
        return row
    if row.state in (TaskState.QUEUED, TaskState.WAITING):
        storage_quota.release(gateway, task_id)
        _go_on_after(gateway, task_id)
    try:
        if follow is not None:
            _stop_runs(gateway, follow)
            return row
        gateway.outputs.announce(task_id)
        if row.state in (TaskState.PLACED, TaskState.RUNNING):
            attempt = gateway.database.read(lambda c: attempt_records.id_of(c, row.id, row.attempt_number))
            gateway.registry.mark_stop(row.node_id, attempt)
            tell = gateway.publisher.push_stop if _is_pushed(gateway, row.node_id) else gateway.publisher.stop
            tell(row.node_id, attempt)
    except NodePoolError as error:
        log.warning("the stop of %s is kept; the sweep tells its node: %s", task_id, error)
    return row


def _give_now(gateway: Gateway, row: OwnedTask) -> None:
    """Nothing runs that could be stopped: its owner does not want to wait for the check any longer."""
    gateway.database.write(lambda c: held_back_results.give(c, [row.id], gateway.clock()))
    try:
        gateway.outputs.announce(row.id)
    except UnavailableError as error:
        log.warning("who watches %s sees its end a little later: %s", row.id, error)
    _go_on_after(gateway, row.id)


def _go_on_after(gateway: Gateway, task_id: str) -> None:
    """The task has ended: what waits for it."""
    try:
        gateway.lifecycle.go_on_after(task_id)
    except UnavailableError as error:
        log.warning("what comes after task %s is looked at by the sweep: %s", task_id, error)


def _stop_runs(gateway: Gateway, follow: FollowUp) -> None:
    gateway.lifecycle.publish_follow_up(follow)
    for node_id, attempt in follow.stopped:
        tell = gateway.publisher.push_stop if _is_pushed(gateway, node_id) else gateway.publisher.stop
        tell(node_id, attempt)


def _is_pushed(gateway: Gateway, node_id: str) -> bool:
    """Whether this is a node without an agent, which nobody tells anything through a queue."""
    node = gateway.database.read(lambda connection: node_store.find(connection, node_id))
    return node.kind is NodeKind.PUSHED
