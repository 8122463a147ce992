"""Sending an array: what its tasks share, what they differ by, and the package, in one stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hivemind.channel import GatewayChannel
from hivemind.errors import InvalidInputError, RefusedError, UnsupportedError
from hivemind.needs import TaskNeeds, needs_to_wire
from hivemind.steps import LocalWork, Steps, Upload, drive
from hivemind.sweeps import Sweep
from hivemind.uploading import (
    CHUNK_BYTES,
    DEADLINE_SECONDS,
    Progress,
    check_pool_knows,
    new_id,
    notify_warning,
    retries_warning,
)
from hivemind.zip_pack import Package, open_package
from nodepool.domain.errors import InvalidInputError as InvalidError
from nodepool.domain.ids import check_job_id
from nodepool.domain.tasks.run_inputs import RunInputs
from nodepool.protocol import nodepool_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySubmission:
    """Amounts are CPT; `most_cpt` is what all of it can cost."""

    job_id: str
    tasks: int
    package_bytes: int
    repeated: bool
    message: str
    max_minutes: int
    price_per_minute_cpt: int
    most_cpt: int
    warnings: tuple[str, ...] = ()


def new_job_id() -> str:
    """`job_20250707_120000_ab12cd34`, made as a task's."""
    return new_id("job")


def upload_array(
    gateway: GatewayChannel,
    source: Path,
    sweep: Sweep,
    needs: TaskNeeds,
    job_id: str,
    max_cpt: int,
    progress: Progress,
    include: Sequence[str] = (),
) -> ArraySubmission:
    """One package, many tasks (`hivemind.sweeps` makes a Sweep): all are accepted or none.

    `{name}` and `{index}` in arguments and in values of the environment are each task's own. Without `job_id`
    one is made; a repeat with the same changes nothing. `max_cpt`: refused where it could cost more; 0: no
    bound. Each task holds its price when it is placed.
    """
    return drive(gateway, array_steps(source, sweep, needs, job_id, max_cpt, progress, include))


def array_steps(
    source: Path,
    sweep: Sweep,
    needs: TaskNeeds,
    job_id: str,
    max_cpt: int,
    progress: Progress,
    include: Sequence[str] = (),
) -> Steps[ArraySubmission]:
    try:
        job_id = check_job_id(job_id or new_job_id())
        inputs = RunInputs(tuple(needs.arguments), dict(needs.environment))
    except (InvalidError, TypeError) as error:
        raise InvalidInputError(str(error)) from error
    items: bytes = yield LocalWork(lambda: sweep.check(inputs))
    common = needs_to_wire(needs)
    if needs.secrets or needs.after or needs.after_any:  # all pools that take arrays pass the rest on
        yield from check_pool_knows(needs)
    package: Package = yield LocalWork(lambda: open_package(source, include=include))
    common.package_bytes = package.size_bytes
    try:
        common.package_sha256 = package.sha256()
        spec = pb.ArraySpec(job_id=job_id, task=common, names=sweep.names, tasks=len(sweep), max_cpt=max_cpt)
        answer = yield from _sent(spec, items, package, progress)
    finally:
        package.close()
    if not answer.success:
        raise RefusedError(answer.message or None)
    return ArraySubmission(
        job_id=answer.job_id,
        tasks=answer.tasks,
        package_bytes=package.size_bytes,
        repeated=answer.repeated,
        message=answer.message,
        max_minutes=answer.max_minutes,
        price_per_minute_cpt=answer.price_per_minute_cpt,
        most_cpt=answer.most_cpt,
        warnings=(
            *package.warnings,
            *retries_warning(needs, answer.retries),
            *notify_warning(needs.notify, kept=answer.notify_kept),
        ),
    )


def _sent(
    spec: pb.ArraySpec, items: bytes, package: Package, progress: Progress
) -> Steps[pb.SubmitArrayResponse]:
    try:
        answer: pb.SubmitArrayResponse = yield Upload(
            "tasks", "SubmitArray", lambda: _messages(spec, items, package, progress), DEADLINE_SECONDS
        )
    except UnsupportedError as error:
        raise UnsupportedError("this pool is too old for arrays; nothing was sent") from error
    return answer


def _messages(
    spec: pb.ArraySpec, items: bytes, package: Package, progress: Progress
) -> Iterator[pb.SubmitArrayRequest]:
    total, sent = len(items) + package.size_bytes, 0
    progress(0, total)
    yield pb.SubmitArrayRequest(array=spec)
    for start in range(0, len(items), CHUNK_BYTES):
        piece = items[start : start + CHUNK_BYTES]
        yield pb.SubmitArrayRequest(items=piece)
        sent += len(piece)
        progress(sent, total)
    for chunk in package.chunks(CHUNK_BYTES):
        yield pb.SubmitArrayRequest(zip_chunk=chunk)
        sent += len(chunk)
        progress(sent, total)
