"""Fetching a result: streamed into a file beside its destination, which it replaces when it is whole."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

from hivemind.channel import GatewayChannel, Retries
from hivemind.errors import ClientError, MissingError, NotYetError, RefusedError, UnreachableError
from hivemind.models import ResultInfo, TaskInfo
from hivemind.zip_unpack import check_destination, unpack
from nodepool.protocol import nodepool_pb2 as pb

_DEADLINE_SECONDS = 3600.0
# Of a result on a line that breaks again and again; each begins at its first byte.
_MOST_BEGINNINGS = 10


def fetch_result(
    gateway: GatewayChannel,
    task_id: str,
    destination: Path,
    *,
    unpack_into: bool,
    overwrite: bool,
    max_unpacked_bytes: int,
    progress: Callable[[int, int], None],
    status: Callable[[str], TaskInfo],
) -> ResultInfo:
    """See `NodePoolClient.result`."""
    if unpack_into:
        check_destination(destination, overwrite=overwrite)
    elif destination.exists() and (destination.is_dir() or not overwrite):
        raise RefusedError(
            f"{destination} exists already", hint="choose another name, or overwrite with --force"
        )
    part = destination.parent / f".{destination.name}.{secrets.token_hex(8)}.part"
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        try:
            size = _download(gateway, task_id, part, progress, status)
            if unpack_into:
                unpacked = unpack(
                    part, destination, overwrite=overwrite, max_unpacked_bytes=max_unpacked_bytes
                )
                return ResultInfo(
                    task_id=task_id,
                    path=destination,
                    result_bytes=size,
                    files=unpacked.files,
                    warnings=unpacked.warnings,
                )
            part.replace(destination)
            return ResultInfo(task_id=task_id, path=destination, result_bytes=size)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise RefusedError(
            f"the result cannot be written to {destination}: {error.strerror or error}"
        ) from error


def _download(
    gateway: GatewayChannel,
    task_id: str,
    part: Path,
    progress: Callable[[int, int], None],
    status: Callable[[str], TaskInfo],
) -> int:
    retries, begun = Retries(gateway), 0

    def show(done: int, total: int) -> None:
        if done and begun <= _MOST_BEGINNINGS:
            retries.worked()
        progress(done, total)

    while True:
        begun += 1
        try:
            return _download_once(gateway, task_id, part, show)
        except MissingError as error:
            raise _why_missing(status(task_id), error) from None
        except UnreachableError as error:
            retries.failed(error)


def _download_once(
    gateway: GatewayChannel, task_id: str, part: Path, progress: Callable[[int, int], None]
) -> int:
    total = done = 0
    request = pb.DownloadResultRequest(task_id=task_id)
    with part.open("wb") as file:
        for answer in gateway.stream(
            gateway.tasks.DownloadResult, request, deadline_seconds=_DEADLINE_SECONDS
        ):
            total = total or answer.total_bytes
            done += len(answer.chunk)
            if done > total:
                raise ClientError(f"the pool sent more than the {total} bytes of the result")
            file.write(answer.chunk)
            progress(done, total)
    if done != total:
        raise UnreachableError(f"the download was cut off after {done} of {total} bytes")
    return done


def _why_missing(task: TaskInfo, error: MissingError) -> ClientError:
    if not task.final:
        return NotYetError(
            f"the task {task.task_id} has no result yet: it is {task.status}", hint="wait for its end"
        )
    return MissingError(str(error) + (f" ({task.reason})" if task.reason else ""))
