"""The nodes' side of an attempt: claim it, stream its output, end it. Every effect names its attempt."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from gateway.usecases import flow_inputs, sandboxes, user_secrets
from gateway.usecases.user_secrets import SecretsNotGivenError
from nodepool import wire
from nodepool.clock import steady_clock
from nodepool.domain import ids
from nodepool.domain.ends.attempt_end import End
from nodepool.domain.errors import (
    BrokerFullError,
    InvalidInputError,
    NodePoolError,
    NotAbleError,
    NotTrustedError,
    OwnerOnlyError,
    StaleAttemptError,
    StateConflictError,
    TooLargeError,
    UnavailableError,
)
from nodepool.domain.tasks.arrays import COUNT_VARIABLE, INDEX_VARIABLE
from nodepool.domain.tasks.reason_classes import told_by_node
from nodepool.domain.tasks.reasons import ReasonCode, because
from nodepool.domain.tasks.run_inputs import arguments_from_json, mapping_from_json
from nodepool.domain.tasks.states import AttemptState, Outcome
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.files.writer import Writer
from nodepool.stores.sql import attempts as attempt_records, tasks as task_store
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.task_rows import AssignedTask
from nodepool.stores.sql.user_secrets import StoredSecret
from nodepool.workflows.result_files import forget_losers

MAX_OUTPUT_CHUNK_BYTES = 1 << 20
# Far above any output; Redis' scripts count exactly only up to 2**53.
MAX_OUTPUT_OFFSET = 1 << 40
_SECONDS_PER_MINUTE = 60
_FIRST = 1
_CHECKED_FOR_SECONDS = 1.0
# In times NODE_LATE_SECONDS: so long an agent may need to come back after an outage and say what it lost.
_BLAMELESS_PERIODS = 5
_MAX_CHECKED = 10_000
# What a node is not, or not any more, that was given the task.
_NOT_THERE: Mapping[type[Exception], ReasonCode] = {
    OwnerOnlyError: ReasonCode.OWNER_ONLY,
    NotAbleError: ReasonCode.NOT_ABLE,
    NotTrustedError: ReasonCode.NOT_TRUSTED,
}
# While the broker is away: for so long agents are asked to keep what they have and send it again. After that
# it is only in their results, and the broker is asked this often whether it is back.
_KEPT_FOR_SECONDS, _ASKED_AGAIN_SECONDS = 10.0, 1.0


def claim(gateway: Gateway, identity: CallerIdentity, request: pb.ClaimAttemptRequest) -> pb.AttemptSpec:
    """Move the attempt to running on this node and say what to run."""
    now = gateway.clock()

    def work(connection: Connection) -> tuple[AssignedTask, Mapping[str, StoredSecret], bool]:
        attempt_id, node_id, able = request.attempt_id, request.node_id, request.capabilities
        task = task_store.claim_attempt(connection, attempt_id, node_id, identity.user_id, now, able=able)
        wanted = user_secrets.read_wanted(connection, task.owner_id, task.secrets)
        return task, wanted, sandboxes.is_pools_own(gateway, connection, task)

    try:
        row, sealed, pools_own = gateway.database.write(work)
    except tuple(_NOT_THERE) as error:
        # Nobody's fault: it has become so since the task was placed.
        reason = because(_NOT_THERE[type(error)], node=request.node_id)
        end = End(outcome=Outcome.REFUSED, exit_code=None, reason=reason, blameless=True)
        gateway.lifecycle.end_attempt(request.attempt_id, request.node_id, identity.user_id, end)
        raise StaleAttemptError(f"{error}; the task goes elsewhere") from error
    secrets = _secrets(gateway, identity, request, row, sealed)
    if row.attempt_state == AttemptState.ASSIGNED:  # before: this is its first claim
        gateway.claims.note(request.attempt_id)
    with suppress(NodePoolError):  # watchers look by themselves
        gateway.outputs.announce(row.id)
    return pb.AttemptSpec(
        attempt_id=request.attempt_id,
        task_id=ids.shown_task(row.id),  # what a program makes of it must not differ between runs
        attempt_number=_FIRST,  # how often it was tried elsewhere is none of its node's business
        package_sha256=row.package_sha256,
        package_bytes=row.package_bytes,
        cpu_score=row.cpu_score,
        memory_gb=row.memory_gb,
        memory_mb=row.memory_mb,
        gpu_score=row.gpu_score,
        gpu_memory_gb=row.gpu_memory_gb,
        image=row.image,
        network=row.network,
        max_run_seconds=row.max_minutes * _SECONDS_PER_MINUTE,
        package_follows=row.package_sha256 not in request.cached_sha256,
        stop_requested=row.stop_requested,
        of_node_owner=row.owner_id == identity.user_id,
        exclusive=row.exclusive,
        arguments=arguments_from_json(row.arguments),
        environment=_environment(row),
        secrets=secrets,
        inputs=flow_inputs.told(gateway, row.job_id, row.flow_index),
        **sandboxes.reuse_of(gateway, row, request.node_id, pools_own=pools_own),
    )


def _secrets(
    gateway: Gateway,
    identity: CallerIdentity,
    request: pb.ClaimAttemptRequest,
    row: AssignedTask,
    sealed: Mapping[str, StoredSecret],
) -> dict[str, str]:
    """Their values. A task that cannot be given one has failed, and its node is neither blamed nor paid."""
    try:
        return user_secrets.opened(gateway, row.owner_id, row.secrets, sealed)
    except SecretsNotGivenError as error:
        end = End(outcome=Outcome.FAILED, exit_code=None, reason=error.reason, blameless=True, idle=True)
        gateway.lifecycle.end_attempt(request.attempt_id, request.node_id, identity.user_id, end)
        raise StaleAttemptError(f"the task has failed: {error}") from error


def _environment(row: AssignedTask) -> dict[str, str]:
    """As its owner gave it; of a task of an array with its index, and how many there are."""
    given = mapping_from_json(row.environment)
    if row.job_tasks is None:
        return given
    return {**given, INDEX_VARIABLE: str(row.job_index), COUNT_VARIABLE: str(row.job_tasks)}


def package_chunks(gateway: Gateway, spec: pb.AttemptSpec) -> Iterator[bytes]:
    return gateway.files.open_package(spec.package_sha256)


@dataclass(frozen=True, slots=True)
class _Checked:
    until: float
    stop_requested: bool
    task_id: str


class OutputIntake:
    """Takes output of live attempts. What SQL said of an attempt is believed for a second.

    Output of an attempt that went stale within that second lands under that attempt's own key, where
    nobody looks any more. A broker that is full or away holds no run up: the result has all of the output.
    """

    def __init__(self, gateway: Gateway, clock: Callable[[], float] = time.monotonic) -> None:
        self._gateway = gateway
        self._clock = clock
        self._away_since: float | None = None
        self._ask_again_at = float("-inf")
        self._checked: dict[tuple[str, str, int], _Checked] = {}

    def append(self, identity: CallerIdentity, request: pb.AppendOutputRequest) -> pb.AppendOutputResponse:
        if len(request.data) > MAX_OUTPUT_CHUNK_BYTES:
            raise InvalidInputError(f"send at most {MAX_OUTPUT_CHUNK_BYTES} bytes of output at once")
        _check_offset(request.offset)
        checked = self._check(identity, request)
        end = self._next_offset(request, checked.task_id)
        return pb.AppendOutputResponse(next_offset=end, stop_requested=checked.stop_requested)

    def _next_offset(self, request: pb.AppendOutputRequest, task_id: str) -> int:
        """Where the agent is to go on: behind what was kept or is dropped, or where it was."""
        now, dropped = self._clock(), request.offset + len(request.data)
        if now < self._ask_again_at:
            return dropped
        try:
            end = self._gateway.outputs.append(
                request.attempt_id, request.offset, request.data, task_id=task_id
            )
        except BrokerFullError:
            return dropped
        except UnavailableError:
            since = self._away_since = now if self._away_since is None else self._away_since
            if now - since < _KEPT_FOR_SECONDS:
                return request.offset
            self._ask_again_at = self._clock() + _ASKED_AGAIN_SECONDS
            return dropped
        self._away_since = None
        return end

    def _check(self, identity: CallerIdentity, request: pb.AppendOutputRequest) -> _Checked:
        key = (request.attempt_id, request.node_id, identity.user_id)
        checked = self._checked.get(key)
        now = time.monotonic()
        if checked is None or checked.until < now:
            row = self._gateway.database.read(
                lambda connection: task_store.live_attempt(
                    connection, request.attempt_id, request.node_id, identity.user_id
                )
            )
            if len(self._checked) >= _MAX_CHECKED:
                self._checked.clear()
            checked = self._checked[key] = _Checked(now + _CHECKED_FOR_SECONDS, row.stop_requested, row.id)
        return checked


def _check_offset(offset: int) -> None:
    if not 0 <= offset <= MAX_OUTPUT_OFFSET:
        raise InvalidInputError(f"offset must be 0 to {MAX_OUTPUT_OFFSET}, not {offset}")


def begin_result(gateway: Gateway, identity: CallerIdentity, end: pb.AttemptEnd) -> Writer | None:
    """Check the outcome before its result is taken; a writer when there is a result to come."""
    wire.outcome_from_wire(end.outcome)
    if len(end.output_tail) > MAX_OUTPUT_CHUNK_BYTES:
        raise InvalidInputError(f"output_tail must be at most {MAX_OUTPUT_CHUNK_BYTES} bytes")
    _check_offset(end.output_offset)
    if end.result_bytes < 0:
        raise InvalidInputError(f"the result is announced with {end.result_bytes} bytes, which is no size")
    if end.result_bytes > gateway.settings.max_result_bytes:
        raise TooLargeError(
            f"the result has {end.result_bytes} bytes, over this pool's limit of "
            f"{gateway.settings.max_result_bytes}"
        )
    row = _current(gateway, identity, end)
    return gateway.files.result_writer(end.attempt_id) if end.result_bytes and row is not None else None


def _current(gateway: Gateway, identity: CallerIdentity, end: pb.AttemptEnd) -> AssignedTask | None:
    """The live attempt; None when this end was told before, so that its result is not taken twice."""
    try:
        return gateway.database.read(
            lambda connection: task_store.live_attempt(
                connection, end.attempt_id, end.node_id, identity.user_id
            )
        )
    except StaleAttemptError:
        return None


def take_end(gateway: Gateway, end: pb.AttemptEnd, writer: Writer | None) -> End:
    """Commit output and result; what is told of the end, but for the digest of its result."""
    outcome = wire.outcome_from_wire(end.outcome)
    if end.output_tail:
        with suppress(UnavailableError):  # the result has it too, and the end counts more
            gateway.outputs.append(end.attempt_id, end.output_offset, end.output_tail)
    size = 0
    if writer is not None:
        if writer.digest() != (end.result_sha256.lower(), end.result_bytes):
            raise InvalidInputError(
                "the result is not what was announced: its size or SHA-256 differs; send it again"
            )
        _, size = writer.commit()
    # Where the node says that its output ends; the pool takes no more of one attempt than its limit.
    output_bytes = min(end.output_offset + len(end.output_tail), gateway.settings.max_output_bytes)
    has_exit_code = outcome in (Outcome.SUCCEEDED, Outcome.FAILED, Outcome.STOPPED)
    return End(
        outcome=outcome,
        exit_code=end.exit_code if has_exit_code else None,
        reason=told_by_node(outcome, end.reason_code, _printable(end.reason)),
        result_bytes=size,
        has_result=writer is not None,
        output_bytes=output_bytes,
        # Kept within what can be when the attempt is ended: there its node and times are known.
        cpu_seconds=end.cpu_seconds,
        peak_memory_bytes=end.peak_memory_bytes,
        run_seconds=end.run_seconds if end.HasField("run_seconds") else None,
        # An agent sends a result with every run; one that sends nothing at all has nothing to be paid for.
        idle=has_exit_code and not size and not output_bytes and not end.cpu_seconds > 0,
    )


def finish(gateway: Gateway, identity: CallerIdentity, end: pb.AttemptEnd, told: End) -> None:
    """End the attempt. A stale attempt's result is removed again."""
    told = _asked_for(gateway, identity, end, _without_blame(gateway, end, told))
    told = replace(told, measured_seconds=gateway.claims.seconds_since(end.attempt_id))
    try:
        gateway.lifecycle.end_attempt(end.attempt_id, end.node_id, identity.user_id, told)
    except (StaleAttemptError, StateConflictError):
        if told.has_result:
            _forget_result(gateway, end.attempt_id)
        raise
    forget_losers(gateway.database, gateway.files, end.attempt_id)


def _without_blame(gateway: Gateway, end: pb.AttemptEnd, told: End) -> End:
    """What a node lost because it could not reach the pool is not its fault: older agents end their runs
    soon, and so do all with exclusive ones. Not its word counts, but what this gateway knows of itself."""
    if told.outcome is not Outcome.LOST:
        return told
    task = gateway.database.read(lambda c: attempt_records.task_of(c, end.attempt_id))
    if task is None or not gateway.outages.explains(
        steady_clock(),
        age_seconds=gateway.clock() - task.attempt_created_at,
        within_seconds=_BLAMELESS_PERIODS * gateway.settings.node_late_seconds,
    ):
        return told
    return replace(told, blameless=True, reason=because(ReasonCode.POOL_AWAY, node=end.node_id))


def _asked_for(gateway: Gateway, identity: CallerIdentity, end: pb.AttemptEnd, told: End) -> End:
    """Nobody is paid for a run that its node ended by itself: of a stranger's task that is a lost one. Who
    wanted its end is in SQL before any node hears of it."""
    if told.outcome is not Outcome.STOPPED:
        return told
    task = gateway.database.read(lambda c: attempt_records.task_of(c, end.attempt_id))
    if task is None or task.stop_requested or task.owner_id == identity.user_id:
        return told
    if told.has_result:
        _forget_result(gateway, end.attempt_id)
    reason = because(ReasonCode.NODE_FAILED, detail="its node stopped it, and nobody had asked for that")
    return End(outcome=Outcome.LOST, exit_code=None, reason=reason)


def _forget_result(gateway: Gateway, attempt_id: str) -> None:
    """Unless it is the task's: the attempt may have ended in another call at the same moment."""
    task = gateway.database.read(lambda c: attempt_records.task_of(c, attempt_id))
    if task is None or task.result_attempt != attempt_id:
        gateway.files.delete_result(attempt_id)


def _printable(reason: str) -> str:
    """Reasons come from strangers' machines and are shown on people's terminals."""
    return "".join(character if character.isprintable() else " " for character in reason[:500])
