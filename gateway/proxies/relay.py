"""Two connections that are one: what comes in on a side goes out on the other, as fast as that takes it.

Nothing is held but what one read brought. The end of what a side says is passed on (half-close); where a side
is gone, the other one goes as well. Knows nothing of what is said.
"""

from __future__ import annotations

import asyncio
from typing import cast

READ_BYTES = 64 << 10
# More than this waits for a side that takes nothing: its other side is not read until it has gone.
_HELD_BYTES = 16 << 10
# For what is still to be written to a side whose other side is gone.
_LAST_WORDS_SECONDS = 5.0


class Side(asyncio.BufferedProtocol):
    """One of the two, joined to the other by `join`. It reads into `room`, which all of a loop share."""

    def __init__(self, room: memoryview) -> None:
        self._room = room
        self.other: Side | None = None
        self.transport: asyncio.Transport
        self._has_ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=_HELD_BYTES)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        self.take(bytes(self._room[:nbytes]))

    def take(self, data: bytes) -> None:
        """What came in."""
        if self.other is not None:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.transport.resume_reading()

    def eof_received(self) -> bool:
        """True: the other direction goes on."""
        other = self.other
        if other is None:
            return False
        self._has_ended = True
        other.transport.write_eof()
        return not other._has_ended

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self.other is not None:
            self.other.end()

    def end(self) -> None:
        """Once what is written has gone, or when that takes too long."""
        self.transport.close()
        asyncio.get_running_loop().call_later(_LAST_WORDS_SECONDS, self.transport.abort)


def join(one: Side, other: Side) -> None:
    one.other, other.other = other, one
