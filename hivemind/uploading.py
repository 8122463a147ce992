"""Sending a package: in one message while it is small, in a stream when it is large."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from hivemind.channel import GatewayChannel
from hivemind.errors import InvalidInputError, RefusedError, UnsupportedError
from hivemind.models import Submission
from hivemind.needs import TaskNeeds, needs_to_wire
from hivemind.steps import Call, LocalWork, Steps, Upload, drive
from hivemind.zip_pack import Package, open_package
from nodepool.domain.capabilities import AFTER_OTHERS, Capability, in_words
from nodepool.domain.errors import InvalidInputError as InvalidError
from nodepool.domain.ids import check_task_id
from nodepool.protocol import nodepool_pb2 as pb

# Above this a package is streamed.
STREAM_ABOVE_BYTES = 8 << 20
CHUNK_BYTES = 256 << 10
_NEARLY_FULL = 0.8
# Generous: a slow line may need minutes for a large package, and keepalive notices a dead one.
DEADLINE_SECONDS = 3600.0

# (bytes done, bytes in all)
Progress = Callable[[int, int], None]


def silent(done: int, total: int) -> None:
    """No progress wanted."""


def new_task_id(now: datetime | None = None) -> str:
    """`task_20250707_120000_ab12cd34`: the time in UTC and 8 random hex digits."""
    return new_id("task", now)


def new_id(kind: str, now: datetime | None = None) -> str:
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    return f"{kind}_{moment:%Y%m%d_%H%M%S}_{secrets.token_hex(4)}"


def upload_task(
    gateway: GatewayChannel,
    source: Path,
    task_id: str,
    needs: TaskNeeds,
    progress: Progress,
    include: Sequence[str] = (),
) -> Submission:
    """See `NodePoolClient.submit`."""
    return drive(gateway, upload_steps(source, task_id, needs, progress, include))


def upload_steps(
    source: Path, task_id: str, needs: TaskNeeds, progress: Progress, include: Sequence[str] = ()
) -> Steps[Submission]:
    try:
        check_task_id(task_id)
    except (InvalidError, TypeError) as error:
        raise InvalidInputError(str(error)) from error
    request = needs_to_wire(needs)
    request.task_id = task_id
    yield from check_pool_knows(needs)
    package: Package = yield LocalWork(lambda: open_package(source, include=include))
    # The gateway keeps nothing else than this; so a file that changes while it is sent is not a task.
    request.package_bytes = package.size_bytes
    try:
        request.package_sha256 = package.sha256()
        answer = yield from _send(request, package, progress)
    finally:
        package.close()
    if not answer.success:
        raise RefusedError(answer.message or None)
    kept: dict[str, bool] = {AFTER_OTHERS: answer.order_kept}
    kept |= {Capability.INPUTS: answer.inputs_kept, Capability.SECRETS: answer.secrets_kept}
    if dropped := [word for word in sorted(needs.capabilities) if not kept[word]]:
        # Another gateway of the pool than the one that was asked is an older one.
        yield Call("tasks", "StopTask", pb.StopTaskRequest(task_id=task_id))
        raise UnsupportedError(f"{_too_old(dropped[0])}; task {task_id} is stopped")
    return Submission(
        task_id=task_id,
        package_bytes=package.size_bytes,
        repeated=answer.repeated_upload,
        message=answer.message,
        warnings=(
            *package.warnings,
            *_storage_warning(answer),
            *_naming_warning(needs, answer),
            *_minutes_warning(answer),
            *retries_warning(needs, answer.retries),
            *notify_warning(needs.notify, kept=answer.notify_kept),
        ),
        max_minutes=answer.max_minutes,
        stored_bytes=answer.stored_bytes,
        stored_bytes_limit=answer.stored_bytes_limit,
    )


def check_pool_knows(needs: TaskNeeds) -> Steps[None]:
    """An older pool would run the task without what it is given, or at once. Raises UnsupportedError."""
    if not needs.capabilities:
        return
    told = yield Call("nodes", "HealthCheck", pb.HealthCheckRequest(), with_token=False)
    if missing := sorted(needs.capabilities.difference(told.capabilities)):
        raise UnsupportedError(f"{_too_old(missing[0])}; nothing was sent")


def _too_old(word: str) -> str:
    if word == AFTER_OTHERS:
        return "this pool is too old to let a task wait for others"
    return f"this pool is too old to pass {in_words(word)} on"


def _naming_warning(needs: TaskNeeds, answer: pb.UploadTaskResponse) -> tuple[str, ...]:
    if answer.inputs_kept or not (needs.name or needs.labels):
        return ()
    return ("this pool is too old for names and labels: the task has none",)


def _storage_warning(answer: pb.UploadTaskResponse) -> tuple[str, ...]:
    """Before the pool has to refuse a package."""
    kept, most = answer.stored_bytes, answer.stored_bytes_limit
    if not most or kept < _NEARLY_FULL * most:
        return ()
    words = (
        f"your tasks keep {kept >> 20:,} of the {most >> 20:,} MiB that they may keep in this pool; beyond "
        "that no package is taken: hivemind rm TASK deletes one that has ended"
    )
    return (words,)


def retries_warning(needs: TaskNeeds, accepted: int) -> tuple[str, ...]:
    """Where the pool does not know what was asked for."""
    if accepted == needs.retries:
        return ()
    return ("this pool is too old for retries: what fails is not tried again",)


def notify_warning(notify: Sequence[str], *, kept: bool) -> tuple[str, ...]:
    """Where the pool does not know what was asked for."""
    return () if kept or not notify else ("this pool is too old to tell anybody of the end of tasks",)


def _minutes_warning(answer: pb.UploadTaskResponse) -> tuple[str, ...]:
    if not answer.minutes_by_balance:
        return ()
    words = (
        f"your balance covers {count(answer.max_minutes, 'minute')} of this task and no more, and so long it "
        "may run at the most (--max-minutes names another bound)"
    )
    return (words,)


def count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _send(
    request: pb.UploadTaskRequest, package: Package, progress: Progress
) -> Steps[pb.UploadTaskResponse]:
    progress(0, package.size_bytes)
    answer: pb.UploadTaskResponse
    if package.size_bytes > STREAM_ABOVE_BYTES:
        answer = yield Upload(
            "tasks", "UploadTaskStream", lambda: _parts(request, package, progress), DEADLINE_SECONDS
        )
        return answer
    request.task_zip = package.read()
    answer = yield Call("tasks", "UploadTask", request, DEADLINE_SECONDS)
    progress(package.size_bytes, package.size_bytes)
    return answer


def _parts(
    request: pb.UploadTaskRequest, package: Package, progress: Progress
) -> Iterator[pb.UploadTaskStreamRequest]:
    yield pb.UploadTaskStreamRequest(task=request)
    sent = 0
    for chunk in package.chunks(CHUNK_BYTES):
        yield pb.UploadTaskStreamRequest(zip_chunk=chunk)
        sent += len(chunk)
        progress(sent, package.size_bytes)
