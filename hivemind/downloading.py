"""Fetching a result: streamed into a file beside its destination, which it replaces when it is whole."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO

from hivemind.errors import ClientError, MissingError, NotYetError, RefusedError, UnreachableError
from hivemind.made import made
from hivemind.models import ResultInfo, TaskInfo, task_from_poll
from hivemind.steps import Call, LocalWork, Steps, Stream
from hivemind.zip_unpack import check_destination, unpack
from nodepool.protocol import nodepool_pb2 as pb

_DEADLINE_SECONDS = 3600.0


def fetch_steps(
    task_id: str,
    destination: Path,
    *,
    unpack_into: bool,
    overwrite: bool,
    max_unpacked_bytes: int,
    progress: Callable[[int, int], None],
) -> Steps[ResultInfo]:
    """See `NodePoolClient.result`."""
    if unpack_into:
        check_destination(destination, overwrite=overwrite)
    elif destination.exists() and (destination.is_dir() or not overwrite):
        raise RefusedError(
            f"{destination} exists already", hint="choose another name, or overwrite with --force"
        )
    part = _ResultPart(destination.parent / f".{destination.name}.{secrets.token_hex(8)}.part", progress)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield from _download(task_id, part)
            if unpack_into:
                unpacked = yield LocalWork(
                    lambda: unpack(
                        part.path, destination, overwrite=overwrite, max_unpacked_bytes=max_unpacked_bytes
                    )
                )
                return ResultInfo(
                    task_id=task_id,
                    path=destination,
                    result_bytes=part.done,
                    files=unpacked.files,
                    warnings=unpacked.warnings,
                )
            part.path.replace(destination)
            return ResultInfo(task_id=task_id, path=destination, result_bytes=part.done)
        finally:
            part.close()
            part.path.unlink(missing_ok=True)
    except OSError as error:
        raise RefusedError(
            f"the result cannot be written to {destination}: {error.strerror or error}"
        ) from error


def _download(task_id: str, part: _ResultPart) -> Steps[None]:
    request = made(pb.DownloadResultRequest, task_id=task_id)
    try:
        yield Stream("tasks", "DownloadResult", request, part, _DEADLINE_SECONDS)
    except MissingError as error:
        task = yield Call("tasks", "PollTaskStatus", made(pb.PollTaskStatusRequest, task_id=task_id))
        raise _why_missing(task_from_poll(task), error) from None


class _ResultPart:
    """The file that a download is written to, each try from its first byte."""

    def __init__(self, path: Path, progress: Callable[[int, int], None]) -> None:
        self.path, self._progress = path, progress
        self.done = self._total = 0
        self._file: IO[bytes] | None = None

    def begin(self) -> None:
        self.close()
        self._file = self.path.open("wb")
        self.done = self._total = 0

    def take(self, answer: pb.DownloadResultResponse) -> None:
        self._total = self._total or answer.total_bytes
        self.done += len(answer.chunk)
        if self.done > self._total:
            raise ClientError(f"the pool sent more than the {self._total} bytes of the result")
        if self._file is not None:
            self._file.write(answer.chunk)
        self._progress(self.done, self._total)

    def end(self) -> None:
        self.close()
        if self.done != self._total:
            raise UnreachableError(f"the download was cut off after {self.done} of {self._total} bytes")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _why_missing(task: TaskInfo, error: MissingError) -> ClientError:
    if not task.final:
        return NotYetError(
            f"the task {task.task_id} has no result yet: it is {task.status}", hint="wait for its end"
        )
    return MissingError(str(error) + (f" ({task.reason})" if task.reason else ""))
