"""A line that a test can break in every way that lines break: slow, narrow, frozen, dead, reset, refused.

It stands between a part of the pool and a port of this machine, and knows nothing of what is said over it.
One thread serves all its connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

T = TypeVar("T")
_READ_BYTES = 1 << 16
# Read ahead of a slow or frozen line; more stays with its sender, as on a real one.
_MOST_CHUNKS = 256
# At once over a narrow line: others come in between.
_NARROW_BYTES = 512
_CALL_SECONDS = 20.0
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


class LineMode(StrEnum):
    """What becomes of what is sent, and of who connects."""

    FORWARD = "forward"
    FROZEN = "frozen"  # nothing is delivered now; all of it is when the line is forwarded again
    BLACK_HOLE = "black hole"  # lines stay open and nothing is ever delivered on them
    REFUSED = "refused"  # nobody listens


@dataclass(eq=False)
class _Line:
    """One connection through the proxy. `dead`: its ends are open, and nothing comes through any more."""

    caller: asyncio.StreamWriter
    target: asyncio.StreamWriter | None = None
    dead: bool = False
    # Ways on which something was lost, and so nothing comes any more: True for what answers the caller.
    dead_ways: set[bool] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def ends(self) -> list[asyncio.StreamWriter]:
        return [end for end in (self.caller, self.target) if end is not None]


class TcpProxy:
    """Forwards from its `port` to `target_port` of loopback, until it is told otherwise.

    `delay_seconds` is added to each way, so a round trip takes twice as long, and up to `jitter_seconds`
    more. `bytes_per_second` (0: no bound) is what all lines together carry. They may be changed while
    lines are used; bytes keep their order. All methods are for the test's own thread.
    """

    def __init__(self, target_port: int = 0, *, host: str = "127.0.0.1", delay_seconds: float = 0.0) -> None:
        self.target_port = target_port
        self.delay_seconds = delay_seconds
        self.jitter_seconds = 0.0
        self.bytes_per_second = 0.0
        self._free_at = 0.0
        self._lost_way: bool | None = None
        self.port = 0
        self.accepted = 0
        self._host = host
        self._mode = LineMode.FORWARD
        self._lines: set[_Line] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy", daemon=True)
        self._thread.start()
        self._flowing: asyncio.Event = self._call(_make_event)
        self._run(self._listen())

    @property
    def address(self) -> str:
        return f"{self._host}:{self.port}"

    @property
    def mode(self) -> LineMode:
        return self._mode

    @property
    def open_lines(self) -> int:
        """Connections that callers have open here, dead ones too."""
        return self._call(lambda: len(self._lines))

    # -- what happens to the line ----------------------------------------------------------------------
    def forward(self) -> None:
        """As at the start. Lines that were black holes stay dead: only new ones work."""
        self._set(LineMode.FORWARD)

    def freeze(self) -> None:
        """A balancer that hangs: what is sent waits, and who connects is let in and hears nothing."""
        self._set(LineMode.FROZEN)

    def black_hole(self) -> None:
        """A firewall that forgot: lines stay open, and nothing comes through, on them for ever."""
        self._set(LineMode.BLACK_HOLE)

    def lose_one_way(self, *, answers: bool) -> None:
        """What callers say, or what they are answered, is swallowed; the other way goes on. On lines that
        lost something that way stays dead, also when `forward` is called."""

        def lose() -> None:
            self._lost_way = answers

        self._call(lose)

    def refuse(self) -> None:
        """Nobody listens, and every connection is reset."""
        self._set(LineMode.REFUSED)

    def kill_lines(self) -> None:
        """What is open is a black hole from now on; new connections work: a state table was emptied."""
        self._call(self._kill)

    def reset_lines(self) -> None:
        """Every connection is reset; new ones work."""
        self._run(self._reset())

    def close(self) -> None:
        self._run(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_SECONDS)
        self._loop.close()

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the thread ------------------------------------------------------------------------------------
    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_SECONDS)

    def _call(self, work: Callable[[], T]) -> T:
        async def once() -> T:
            return work()

        return self._run(once())

    def _set(self, mode: LineMode) -> None:
        self._run(self._change(mode))

    async def _change(self, mode: LineMode) -> None:
        self._mode, self._lost_way = mode, None
        if mode is LineMode.FROZEN:
            self._flowing.clear()
        else:
            self._flowing.set()
        if mode is LineMode.BLACK_HOLE:
            self._kill()
        if mode is LineMode.REFUSED:
            await self._stop_listening()
            await self._reset()
        elif self._server is None:
            await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._take, self._host, self.port, backlog=128)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def _kill(self) -> None:
        for line in self._lines:
            line.dead = True

    async def _reset(self) -> None:
        for line in list(self._lines):
            for end in line.ends():
                with contextlib.suppress(OSError):
                    end.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE
                    )
                end.transport.abort()
            for task in line.tasks:
                task.cancel()

    async def _shut(self) -> None:
        await self._stop_listening()
        await self._reset()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, caller: asyncio.StreamWriter) -> None:
        self.accepted += 1
        line = _Line(caller, dead=self._mode is LineMode.BLACK_HOLE)
        self._lines.add(line)
        try:
            # A frozen balancer has let its caller in and goes no further.
            await self._until_flowing(line)
            if line.dead:
                await _drain(reader)
                return
            back, line.target = await asyncio.open_connection("127.0.0.1", self.target_port)
            async with asyncio.TaskGroup() as ways:
                line.tasks = {
                    ways.create_task(self._pass_on(line, reader, line.target, answers=False)),
                    ways.create_task(self._pass_on(line, back, caller, answers=True)),
                }
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._lines.discard(line)
            for end in line.ends():
                end.transport.abort()

    async def _until_flowing(self, line: _Line) -> None:
        while not line.dead and not self._flowing.is_set():
            await self._flowing.wait()

    async def _pass_on(
        self, line: _Line, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        """One way: each piece after its delay, in order."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_MOST_CHUNKS)

        async def send() -> None:
            while True:
                due, data = await pieces.get()
                if (pause := due - self._loop.time()) > 0:
                    await asyncio.sleep(pause)
                await self._until_flowing(line)
                if self._lost_way is answers:
                    line.dead_ways.add(answers)
                if line.dead or answers in line.dead_ways:
                    continue
                if not data:
                    sink.write_eof()
                    return
                await self._write(sink, data)

        sending = asyncio.create_task(send())
        try:
            while data := await source.read(_READ_BYTES):
                await pieces.put((self._due(), data))
            # That one end hung up is a thing to deliver, too: on a dead line the other never learns of it.
            await pieces.put((self._due(), b""))
            await sending
        finally:
            sending.cancel()

    def _due(self) -> float:
        return self._loop.time() + self.delay_seconds + random.uniform(0.0, self.jitter_seconds)

    async def _write(self, sink: asyncio.StreamWriter, data: bytes) -> None:
        """As fast as all lines together may."""
        size = _NARROW_BYTES if self.bytes_per_second else len(data)
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            if self.bytes_per_second:
                now = self._loop.time()
                self._free_at = max(now, self._free_at) + len(piece) / self.bytes_per_second
                await asyncio.sleep(self._free_at - now)
            sink.write(piece)
            await sink.drain()


async def _drain(reader: asyncio.StreamReader) -> None:
    while await reader.read(_READ_BYTES):
        pass


def _make_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event
