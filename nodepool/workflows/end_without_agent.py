"""How an attempt ends that its node does not end itself: with the result it gave, or what the pool has.

Used by the gateway, which hears workers without an agent, and by the dispatcher, which calls them, and
which ends what ran longer than it may on any node.
"""

from __future__ import annotations

import logging
from io import BytesIO

from nodepool.domain.ends.attempt_end import End
from nodepool.domain.errors import NodePoolError, UnavailableError
from nodepool.domain.tasks.pool_result import PoolResult, write_result
from nodepool.domain.tasks.reasons import Reason
from nodepool.domain.tasks.states import Outcome, TaskState
from nodepool.stores.files.file_store import FileStore
from nodepool.stores.redis.output import OutputStore, OutputWindow
from nodepool.stores.sql.attempt_rows import PushedAttempt
from nodepool.wire import TASK_STATUS_WORDS
from nodepool.workflows.kept_output import keep_log

log = logging.getLogger(__name__)


def keep_result(files: FileStore, attempt_id: str, result: bytes) -> None:
    with files.result_writer(attempt_id) as writer:
        writer.write(result)
        writer.commit()


def end_with_what_there_is(
    files: FileStore,
    outputs: OutputStore,
    attempt: PushedAttempt,
    outcome: Outcome,
    reason: Reason,
    now: float,
    *,
    at_bound: bool = False,
    worked: bool = False,
) -> End:
    """`at_bound`: it ran as long as it may. `worked`: its node's reports say so.

    Of a run that was stopped or reached its bound the pool makes a result where there is none.
    """
    size = files.result_size(attempt.id)
    said = _output(outputs, attempt.id)
    kept = keep_log(files, attempt.id, said) if said is not None else 0
    # What cannot be known now is not held against its node.
    idle = attempt.started_at is not None and not (size or worked or said is None or said.end)
    if not size and (at_bound or outcome is Outcome.STOPPED) and attempt.started_at is not None:
        state = TaskState.STOPPED if outcome is Outcome.STOPPED else TaskState.FAILED
        made = _made_by_the_pool(
            PoolResult(
                task_id=attempt.task_id,
                attempt_id=attempt.id,
                node_id=attempt.node_id,
                status=TASK_STATUS_WORDS[state],
                reason=str(reason),
                started_at=attempt.started_at,
                finished_at=now,
                output=said.data if said is not None else b"",
                stopped=outcome is Outcome.STOPPED,
            )
        )
        try:
            keep_result(files, attempt.id, made)
            size = len(made)
        except NodePoolError as error:
            log.warning("%s ends without a result: %s", attempt.id, error)  # or its owner would wait for ever
    return End(
        outcome=outcome,
        exit_code=0 if outcome is Outcome.SUCCEEDED else None,
        reason=reason,
        result_bytes=size,
        has_result=size > 0,
        log_bytes=kept,
        idle=idle and (at_bound or outcome is Outcome.STOPPED),
    )


def _output(outputs: OutputStore, attempt_id: str) -> OutputWindow | None:
    try:
        return outputs.window(attempt_id)
    except UnavailableError:
        return None  # the end counts more than what was said


def _made_by_the_pool(result: PoolResult) -> bytes:
    buffer = BytesIO()
    write_result(buffer, result)
    return buffer.getvalue()
