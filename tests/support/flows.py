"""Flows on the wire, as a test sends them: generated stubs, nothing of our client."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from nodepool.domain.tasks.arrays import item_line
from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.arrays import PACKAGE


@dataclass(frozen=True, kw_only=True)
class Step:
    """`count`: of the tasks of an array; 0: it is one task."""

    name: str
    needs: Sequence[str] = ()
    needs_any: Sequence[str] = ()
    count: int = 0
    zip_bytes: bytes = PACKAGE
    task: dict[str, Any] = field(default_factory=dict)


def flow_messages(
    job_id: str, steps: Sequence[Step], *, max_cpt: int = 0, **spec: Any
) -> Iterator[pb.SubmitFlowRequest]:
    packages = list(dict.fromkeys(step.zip_bytes for step in steps))
    yield pb.SubmitFlowRequest(
        flow=pb.FlowSpec(
            job_id=job_id,
            max_cpt=max_cpt,
            steps=[
                pb.FlowStep(
                    name=step.name,
                    task=pb.UploadTaskRequest(**step.task),
                    package=packages.index(step.zip_bytes),
                    needs=step.needs,
                    needs_any=step.needs_any,
                    array_tasks=step.count,
                )
                for step in steps
            ],
            packages=[
                pb.FlowPackage(package_bytes=len(data), package_sha256=hashlib.sha256(data).hexdigest())
                for data in packages
            ],
            **spec,
        )
    )
    for number, step in enumerate(steps):
        if step.count:
            data = "".join(item_line(index) for index in range(step.count)).encode()
            yield pb.SubmitFlowRequest(items=pb.FlowPiece(number=number, data=data))
    for number, data in enumerate(packages):
        yield pb.SubmitFlowRequest(package=pb.FlowPiece(number=number, data=data))


def submit_flow(
    account: Account, job_id: str, steps: Sequence[Step], *, timeout: float = CALL_SECONDS, **spec: Any
) -> pb.SubmitFlowResponse:
    return account.stubs.tasks.SubmitFlow(
        flow_messages(job_id, steps, **spec), metadata=account.metadata, timeout=timeout
    )


def counts_of(answer: pb.GetJobResponse) -> dict[str, dict[str, int]]:
    """Of each step, with those that wait for others told apart."""
    found = {}
    for step in answer.steps:
        counts = dict(step.counts)
        if step.waiting:
            counts["QUEUED"] -= step.waiting
            counts["WAITING"] = step.waiting
        found[step.name] = {state: count for state, count in counts.items() if count}
    return found
