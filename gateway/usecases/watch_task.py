"""WatchTask: state changes and output as they happen, from where the watcher left off."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass

from gateway import messages as views
from gateway.admission.message_reader import LONGEST_REPLY_SECONDS
from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from gateway.usecases import tasks
from nodepool.domain.errors import RateLimitedError, StalledError, UnavailableError
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.redis.output import OutputWindow
from nodepool.stores.sql.task_rows import OwnedTask

# How long a lost wake-up can go unnoticed: longer, the longer nothing has happened.
_LOOK_AGAIN_SECONDS, _LONGEST_SECONDS = 1.0, 4.0
_CHUNK_BYTES = 256 * 1024
# How often, and how long, room for the output is waited for: what the account watches besides is read first.
_ROOM_SECONDS, _LONGEST_WAIT_SECONDS = 0.25, 60.0


@dataclass(slots=True)
class _Position:
    attempt_number: int
    offset: int
    attempt: str = ""  # whose number was looked up last
    seen_number: int = 0

    def start(self, number: int) -> int:
        """Where output of this attempt goes on."""
        return self.offset if self.attempt_number == number else 0


async def watch(
    gateway: Gateway, identity: CallerIdentity, request: pb.WatchTaskRequest
) -> AsyncIterator[pb.WatchTaskResponse]:
    """Ends after the final state, which comes after the last output."""
    position = _Position(request.attempt_number, max(0, request.output_offset))
    told: pb.TaskDetail | None = None
    pause = _LOOK_AGAIN_SECONDS
    with gateway.events.watch(request.task_id) as changed:
        while True:
            changed.clear()
            row, number, window, kept = await gateway.run(_look, gateway, identity, request.task_id, position)
            detail = views.task_detail(row, gateway.settings.retention)
            final = views.is_final(row)
            if not final and detail != told:
                yield pb.WatchTaskResponse(state=detail)
            new = 0 if kept else max(0, window.end - position.start(number))
            async with _in_memory(gateway, row, window, kept, new) as output:
                until = time.monotonic() + LONGEST_REPLY_SECONDS
                for chunk in _news(number, output, position):
                    pause = _LOOK_AGAIN_SECONDS
                    yield pb.WatchTaskResponse(output=chunk)
                    if time.monotonic() > until:
                        raise StalledError(f"the output was not read in {LONGEST_REPLY_SECONDS:g} seconds")
            if final:
                yield pb.WatchTaskResponse(state=detail)
                return
            told = detail
            try:
                await asyncio.wait_for(changed.wait(), pause)
                pause = _LOOK_AGAIN_SECONDS
            except TimeoutError:
                pause = min(2 * pause, _LONGEST_SECONDS)


@asynccontextmanager
async def _in_memory(
    gateway: Gateway, row: OwnedTask, window: OutputWindow, kept: str, new: int
) -> AsyncIterator[OutputWindow]:
    """All of the output, counted until its watcher has read it; of a live window what is new."""
    with ExitStack() as room:
        # How much is kept is known when it is there.
        await _make_room(gateway, room, row.owner_id, gateway.settings.max_output_bytes if kept else new)
        output = await tasks.whole_output(gateway, row, window, kept)
        room.close()
        room.enter_context(gateway.memory.hold(row.owner_id, len(output.data) if kept else new))
        yield output


async def _make_room(gateway: Gateway, room: ExitStack, owner_id: int, size_bytes: int) -> None:
    """Raises RateLimitedError where there is none for long."""
    until = time.monotonic() + _LONGEST_WAIT_SECONDS
    while True:
        try:
            room.enter_context(gateway.memory.hold(owner_id, size_bytes))
        except RateLimitedError:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(_ROOM_SECONDS)
        else:
            return


def _look(
    gateway: Gateway, identity: CallerIdentity, task_id: str, position: _Position
) -> tuple[OwnedTask, int, OutputWindow, str]:
    row = tasks.find_own(gateway, identity, task_id)
    attempt = tasks.attempt_of(gateway, row)
    # The same one, most of the times that anybody looks.
    if attempt != position.attempt:
        position.attempt, position.seen_number = attempt, tasks.attempt_number_of(gateway, row, attempt)
    number = position.seen_number
    try:
        return row, number, *tasks.window_of(gateway, row, position.start(number))
    except UnavailableError:
        # State is in SQL; output goes on when Redis is back.
        return row, number, OutputWindow(0, b""), ""


def _news(number: int, window: OutputWindow, position: _Position) -> Iterator[pb.OutputChunk]:
    """Piece by piece: each is made when the one before it was sent."""
    if number != position.attempt_number:
        position.attempt_number, position.offset = number, 0
    start = max(window.base, position.offset)
    skipped = start - position.offset
    for begin in range(start, window.end, _CHUNK_BYTES):
        data = window.data[begin - window.base : begin - window.base + _CHUNK_BYTES]
        position.offset = begin + len(data)
        yield pb.OutputChunk(
            attempt_number=number,
            offset=begin,
            data=data,
            next_offset=position.offset,
            skipped_bytes=skipped,
        )
        skipped = 0
