"""The words of existing workers, which name a task and no attempt: whoever has the task now speaks for it.

Each becomes the same guarded effect that an agent's call has. Who may say it is the owner of the node
without an agent that has the task; an agent names its attempts by their ids.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO

from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from nodepool.domain.ends.attempt_end import End
from nodepool.domain.errors import (
    InvalidInputError,
    NodePoolError,
    StaleAttemptError,
    StateConflictError,
    UnauthenticatedError,
)
from nodepool.domain.money import ledger
from nodepool.domain.nodes.node import NodeKind
from nodepool.domain.not_visible import no_task_on_your_nodes
from nodepool.domain.tasks.pool_result import check_result
from nodepool.domain.tasks.reasons import ReasonCode, because
from nodepool.domain.tasks.states import AttemptState, Outcome
from nodepool.domain.tasks.worker_lines import after_time, whole_lines, without_telemetry
from nodepool.stores.redis.last_heard import LastHeard
from nodepool.stores.sql import pushed_attempts, tasks as task_store
from nodepool.stores.sql.attempt_rows import PushedAttempt
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.task_rows import OwnedTask
from nodepool.workflows.end_without_agent import end_with_what_there_is, keep_result
from nodepool.workflows.result_files import forget_losers

_MAX_OUTPUT_BYTES = 1 << 20
# Unix seconds: before workers were, and after years of four digits.
_EARLIEST, _LATEST = 1_000_000_000, 250_000_000_000


def _current(gateway: Gateway, identity: CallerIdentity, task_id: str, node_id: str = "") -> PushedAttempt:
    """The current attempt of a task that a node of the caller's has, live or ended."""
    task = gateway.database.read(lambda connection: _of_caller(connection, identity, task_id))
    if identity.only_node not in {"", task.node_id}:
        raise UnauthenticatedError
    if not task.node_id or (node_id and node_id != task.node_id):
        if not gateway.database.read(lambda c: pushed_attempts.had(c, task.id, identity.user_id)):
            raise no_task_on_your_nodes(task_id)
        raise StaleAttemptError(f"task {task_id!r} is not on that node; nothing was changed")
    row = gateway.database.read(lambda c: pushed_attempts.current(c, task.id, task.attempt_number))
    if row is None or row.owner_id != identity.user_id:
        raise no_task_on_your_nodes(task_id)
    if row.kind != NodeKind.PUSHED:
        raise StateConflictError(f"task {task_id!r} is on an agent, which speaks for its attempt itself")
    return row


def _of_caller(connection: Connection, identity: CallerIdentity, task_id: str) -> OwnedTask:
    """The task, or the one run of it that is or was on a node of the caller's: nodes know the task's id."""
    task = task_store.find_or_none(connection, task_id)
    if task is None or task.parent_id:
        raise no_task_on_your_nodes(task_id)
    if task.verification:
        run_id = pushed_attempts.run_of(connection, task_id, identity.user_id)
        return task_store.find(connection, run_id) if run_id else task
    return task


def _live(gateway: Gateway, identity: CallerIdentity, task_id: str, node_id: str = "") -> PushedAttempt:
    """The same, still to be ended; one that was only assigned is claimed by the message."""
    row = _current(gateway, identity, task_id, node_id)
    if not row.is_live:
        raise StaleAttemptError
    if row.state == AttemptState.ASSIGNED:
        now = gateway.clock()
        gateway.database.write(
            lambda c: task_store.claim_attempt(c, row.id, row.node_id, identity.user_id, now)
        )
    with suppress(NodePoolError):  # the sweep asks the worker before it gives it up
        LastHeard(gateway.redis).heard([row.id])
        if row.state == AttemptState.ASSIGNED:
            gateway.outputs.announce(task_id)
    return row


def store_output(gateway: Gateway, identity: CallerIdentity, task_id: str, node_id: str, output: str) -> None:
    """Add to the output. Workers send each piece once, and what they send twice is there twice."""
    data = without_telemetry(output).encode()
    if len(data) > _MAX_OUTPUT_BYTES:
        raise InvalidInputError(f"send at most {_MAX_OUTPUT_BYTES} bytes of output at once")
    row = _live(gateway, identity, task_id, node_id)
    if data:
        gateway.outputs.append_at_end(row.id, data, task_id=task_id)


def store_line(gateway: Gateway, identity: CallerIdentity, task_id: str, line: str) -> None:
    """The same of a line, which comes without its end."""
    store_output(gateway, identity, task_id, "", whole_lines(line))


def store_logs(
    gateway: Gateway, identity: CallerIdentity, task_id: str, node_id: str, logs: str, timestamp: int
) -> None:
    """The same of whole lines, with the time (Unix seconds) that their worker tells."""
    lines = after_time(whole_lines(without_telemetry(logs)), _time_text(timestamp))
    store_output(gateway, identity, task_id, node_id, lines)


def _time_text(timestamp: int) -> str:
    """2026-01-31T12:00:00Z; "" for what can be no time of a log."""
    if not _EARLIEST <= timestamp <= _LATEST:
        return ""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def live_attempt(gateway: Gateway, identity: CallerIdentity, task_id: str) -> str:
    """The attempt that a result for the task is kept for."""
    return _live(gateway, identity, task_id).id


def store_result(gateway: Gateway, identity: CallerIdentity, task_id: str, result: bytes) -> None:
    """Keep the result of the running attempt; it becomes the task's when the attempt ends."""
    check_result(BytesIO(result), len(result), gateway.settings.max_result_bytes)
    row = _live(gateway, identity, task_id)
    keep_result(gateway.files, row.id, result)
    now = gateway.database.read(lambda connection: pushed_attempts.find(connection, row.id))
    if now is None or (not now.is_live and now.result_attempt != row.id):
        # It ended in between, without this result.
        gateway.files.delete_result(row.id)
        raise StaleAttemptError


def running(gateway: Gateway, identity: CallerIdentity, task_id: str, node_id: str) -> tuple[bool, int]:
    """Is the task to go on there (its owner may have asked for its end), and what has it earned so far?"""
    row = _live(gateway, identity, task_id, node_id)
    with suppress(NodePoolError):
        LastHeard(gateway.redis).works(row.id)
    now = gateway.clock()
    started_at = row.started_at or now  # it was claimed just now, by this message
    reward = ledger.earned(row.price_per_minute, row.fee_percent or 0, started_at, now, row.max_minutes)
    return not row.stop_requested, reward


def _showed_work(gateway: Gateway, attempt_id: str) -> bool:
    try:
        return LastHeard(gateway.redis).showed_work(attempt_id)
    except NodePoolError:
        return True  # nobody can say that it did not


@dataclass(frozen=True, slots=True)
class Completed:
    """The end of an attempt as its node told it; `live`: for the first time."""

    attempt_id: str
    node_id: str
    end: End
    live: bool


def completed(
    gateway: Gateway, identity: CallerIdentity, task_id: str, node_id: str, *, success: bool
) -> Completed:
    """What is told of the end, but for the digest of its result; in the same words it is the same again."""
    row = _current(gateway, identity, task_id, node_id)
    live = row.is_live
    if live:
        _live(gateway, identity, task_id, node_id)
        # As it is now that it was claimed: when it was started says whether there is something to keep.
        row = _current(gateway, identity, task_id, node_id)
    stopped = row.stop_requested
    outcome = Outcome.STOPPED if stopped else Outcome.SUCCEEDED if success else Outcome.FAILED
    code = ReasonCode.NONE if success else ReasonCode.FAILED_ON_NODE
    reason = because(ReasonCode.STOPPED if stopped else code)
    if live:
        worked = _showed_work(gateway, row.id)
        end = end_with_what_there_is(
            gateway.files, gateway.outputs, row, outcome, reason, gateway.clock(), worked=worked
        )
    else:
        end = End(outcome=outcome, exit_code=None, reason=reason)
    return Completed(row.id, row.node_id, end, live)


def finish_attempt(gateway: Gateway, identity: CallerIdentity, done: Completed) -> None:
    gateway.lifecycle.end_attempt(done.attempt_id, done.node_id, identity.user_id, done.end)
    forget_losers(gateway.database, gateway.files, done.attempt_id)
