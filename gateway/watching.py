"""WatchTask: state changes and output as they happen, from where the watcher left off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row

from gateway import tasks, views
from gateway.context import Gateway
from gateway.tokens import Identity
from nodepool.errors import UnavailableError
from nodepool.stores.output_store import OutputWindow
from proto import nodepool_pb2 as pb

# How long a lost wake-up can go unnoticed: longer, the longer nothing has happened.
_LOOK_AGAIN_SECONDS, _LONGEST_SECONDS = 1.0, 4.0
_CHUNK_BYTES = 256 * 1024


@dataclass(slots=True)
class _Position:
    attempt_number: int
    offset: int
    attempt: str = ""  # whose number was looked up last
    seen_number: int = 0


async def watch(
    gateway: Gateway, identity: Identity, request: pb.WatchTaskRequest
) -> AsyncIterator[pb.WatchTaskResponse]:
    """Ends after the final state, which comes after the last output."""
    position = _Position(request.attempt_number, max(0, request.output_offset))
    told: pb.TaskDetail | None = None
    pause = _LOOK_AGAIN_SECONDS
    with gateway.events.watch(request.task_id) as changed:
        while True:
            changed.clear()
            row, number, window, kept = await gateway.run(_look, gateway, identity, request.task_id, position)
            window = await tasks.whole_output(gateway, row, window, kept)
            detail = views.task_detail(row)
            final = views.is_final(row)
            if not final and detail != told:
                yield pb.WatchTaskResponse(state=detail)
            for chunk in _news(number, window, position):
                pause = _LOOK_AGAIN_SECONDS
                yield pb.WatchTaskResponse(output=chunk)
            if final:
                yield pb.WatchTaskResponse(state=detail)
                return
            told = detail
            try:
                await asyncio.wait_for(changed.wait(), pause)
                pause = _LOOK_AGAIN_SECONDS
            except TimeoutError:
                pause = min(2 * pause, _LONGEST_SECONDS)


def _look(
    gateway: Gateway, identity: Identity, task_id: str, position: _Position
) -> tuple[Row[Any], int, OutputWindow, str]:
    row = tasks.find_own(gateway, identity, task_id)
    attempt = tasks.attempt_of(gateway, row)
    # The same one, most of the times that anybody looks.
    if attempt != position.attempt:
        position.attempt, position.seen_number = attempt, tasks.attempt_number_of(gateway, row, attempt)
    number = position.seen_number
    offset = position.offset if position.attempt_number == number else 0
    try:
        return row, number, *tasks.window_of(gateway, row, offset)
    except UnavailableError:
        # State is in SQL; output goes on when Redis is back.
        return row, number, OutputWindow(0, b""), ""


def _news(number: int, window: OutputWindow, position: _Position) -> list[pb.OutputChunk]:
    if number != position.attempt_number:
        position.attempt_number, position.offset = number, 0
    start = max(window.base, position.offset)
    if start >= window.end:
        return []
    skipped = start - position.offset
    chunks = []
    for begin in range(start, window.end, _CHUNK_BYTES):
        data = window.data[begin - window.base : begin - window.base + _CHUNK_BYTES]
        chunks.append(
            pb.OutputChunk(
                attempt_number=number,
                offset=begin,
                data=data,
                next_offset=begin + len(data),
                skipped_bytes=skipped,
            )
        )
        skipped = 0
    position.offset = window.end
    return chunks
