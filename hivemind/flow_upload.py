"""Sending a flow: its steps, the items of its arrays, and its packages, each once, in one stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from hivemind.array_upload import new_job_id
from hivemind.channel import GatewayChannel
from hivemind.errors import RefusedError, UnsupportedError
from hivemind.flows import TaskFlow
from hivemind.needs import needs_to_wire
from hivemind.uploading import CHUNK_BYTES, DEADLINE_SECONDS, Progress, notify_warning
from hivemind.zip_pack import Package, open_package
from nodepool.domain.errors import InvalidInputError
from nodepool.domain.ids import check_job_id
from nodepool.domain.tasks.flows import check_steps
from nodepool.protocol import nodepool_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowSubmission:
    """`most_cpt` is what all of it can cost; 0 where it was accepted before."""

    job_id: str
    tasks: int
    package_bytes: int
    repeated: bool
    message: str
    most_cpt: int
    warnings: tuple[str, ...] = ()


def upload_flow(gateway: GatewayChannel, flow: TaskFlow, job_id: str, progress: Progress) -> FlowSubmission:
    """All of its steps are accepted or none. Without `job_id` one is made; a repeat changes nothing."""
    try:
        job_id = check_job_id(job_id or new_job_id())
        check_steps([step.order for step in flow.steps], job_id)
    except InvalidInputError as error:
        raise RefusedError(str(error)) from error
    items = flow.check()
    with ExitStack() as stack:
        packages, number_of = _packed(flow, stack)
        spec = _spec(flow, job_id, packages, number_of)
        answer = _sent(gateway, spec, items, packages, progress)
        size = sum(package.size_bytes for package in packages)
        warnings = tuple(dict.fromkeys(word for package in packages for word in package.warnings))
    if not answer.success:
        raise RefusedError(answer.message or None)
    return FlowSubmission(
        job_id=answer.job_id,
        tasks=answer.tasks,
        package_bytes=size,
        repeated=answer.repeated,
        message=answer.message,
        most_cpt=answer.most_cpt,
        warnings=(*warnings, *notify_warning(_told(flow), kept=answer.notify_kept)),
    )


def _told(flow: TaskFlow) -> list[str]:
    return [*flow.notify, *(name for step in flow.steps for name in step.task.notify)]


def _packed(flow: TaskFlow, stack: ExitStack) -> tuple[list[Package], list[int]]:
    """Each source once, and for each step which it is."""
    packages: list[Package] = []
    known: dict[tuple[Path, tuple[str, ...]], int] = {}
    for step in flow.steps:
        source = step.source, step.include
        if source not in known:
            package = open_package(step.source, include=step.include)
            stack.callback(package.close)
            known[source] = len(packages)
            packages.append(package)
    return packages, [known[step.source, step.include] for step in flow.steps]


def _spec(flow: TaskFlow, job_id: str, packages: Sequence[Package], number_of: Sequence[int]) -> pb.FlowSpec:
    return pb.FlowSpec(
        job_id=job_id,
        name=flow.name,
        labels=flow.labels,
        max_cpt=flow.max_cpt,
        notify=flow.notify,
        steps=[
            pb.FlowStep(
                name=step.name,
                task=needs_to_wire(step.task),
                package=number,
                needs=step.needs,
                needs_any=step.needs_any,
                array_tasks=len(step.sweep) if step.sweep else 0,
                names=step.sweep.names if step.sweep else (),
            )
            for number, step in zip(number_of, flow.steps, strict=True)
        ],
        packages=[
            pb.FlowPackage(package_bytes=package.size_bytes, package_sha256=package.sha256())
            for package in packages
        ],
    )


def _sent(
    gateway: GatewayChannel,
    spec: pb.FlowSpec,
    items: Sequence[bytes],
    packages: Sequence[Package],
    progress: Progress,
) -> pb.SubmitFlowResponse:
    try:
        return gateway.upload(
            gateway.tasks.SubmitFlow,
            lambda: _messages(spec, items, packages, progress),
            deadline_seconds=DEADLINE_SECONDS,
        )
    except UnsupportedError as error:
        raise UnsupportedError("this pool is too old for flows; nothing was sent") from error


def _messages(
    spec: pb.FlowSpec, items: Sequence[bytes], packages: Sequence[Package], progress: Progress
) -> Iterator[pb.SubmitFlowRequest]:
    total = sum(map(len, items)) + sum(package.size_bytes for package in packages)
    sent = 0
    progress(0, total)
    yield pb.SubmitFlowRequest(flow=spec)
    for number, data in enumerate(items):
        for start in range(0, len(data), CHUNK_BYTES):
            piece = pb.FlowPiece(number=number, data=data[start : start + CHUNK_BYTES])
            yield pb.SubmitFlowRequest(items=piece)
            sent += len(piece.data)
            progress(sent, total)
    for number, package in enumerate(packages):
        for chunk in package.chunks(CHUNK_BYTES):
            yield pb.SubmitFlowRequest(package=pb.FlowPiece(number=number, data=chunk))
            sent += len(chunk)
            progress(sent, total)
