"""Arrays on the wire, as a test sends them: generated stubs, nothing of our client."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from nodepool.domain.tasks.arrays import item_line
from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.tasks import package

PACKAGE = package({"main.py": "print('hello')"})
_PIECE = 60_000


def new_job_id() -> str:
    return f"job_{secrets.token_hex(6)}"


def lines_of(rows: Iterable[tuple[int, Sequence[str]]]) -> str:
    return "".join(item_line(index, values) for index, values in rows)


def array_messages(
    job_id: str,
    items: str,
    *,
    zip_bytes: bytes = PACKAGE,
    names: Sequence[str] = (),
    tasks: int | None = None,
    max_cpt: int = 0,
    **task: Any,
) -> Iterator[pb.SubmitArrayRequest]:
    common = pb.UploadTaskRequest(
        package_bytes=len(zip_bytes), package_sha256=hashlib.sha256(zip_bytes).hexdigest(), **task
    )
    count = items.count("\n") if tasks is None else tasks
    yield pb.SubmitArrayRequest(
        array=pb.ArraySpec(job_id=job_id, task=common, names=names, tasks=count, max_cpt=max_cpt)
    )
    data = items.encode()
    for start in range(0, len(data), _PIECE):
        yield pb.SubmitArrayRequest(items=data[start : start + _PIECE])
    for start in range(0, len(zip_bytes), _PIECE):
        yield pb.SubmitArrayRequest(zip_chunk=zip_bytes[start : start + _PIECE])


def submit_array(
    account: Account, job_id: str, items: str | int, *, timeout: float = CALL_SECONDS, **what: Any
) -> pb.SubmitArrayResponse:
    """`items`: how many, with indices from 0, or their lines."""
    lines = lines_of((index, ()) for index in range(items)) if isinstance(items, int) else items
    return account.stubs.tasks.SubmitArray(
        array_messages(job_id, lines, **what), metadata=account.metadata, timeout=timeout
    )


def job_of(account: Account, job_id: str) -> pb.GetJobResponse:
    request = pb.GetJobRequest(job_id=job_id)
    return account.stubs.tasks.GetJob(request, metadata=account.metadata, timeout=CALL_SECONDS)
