"""Carries the output of a run to the gateway while it runs: the first bytes at once, then gathered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from nodepool.domain.errors import NodePoolError
from nodepool.protocol import nodepool_pb2 as pb
from worker_agent.gateway_client import GatewayClient, GatewayStaleError
from worker_agent.output_buffer import DEFAULT_CHUNK_BYTES, OutputBuffer

GATHER_SECONDS = 0.1
_IDLE_SECONDS = 1.0


class OutputStream:
    """One thread for one attempt. `offset` is what the gateway has acknowledged.

    The last `tail_bytes` are left to whoever tells the run's end.
    """

    def __init__(
        self,
        link: GatewayClient,
        node_id: str,
        attempt_id: str,
        buffer: OutputBuffer,
        tail_bytes: int,
        on_stop_asked: Callable[[], None],
        on_stale: Callable[[], None],
    ) -> None:
        self._link = link
        self._node_id = node_id
        self._attempt_id = attempt_id
        self._buffer = buffer
        self._tail_bytes = tail_bytes
        self._on_stop_asked = on_stop_asked
        self._on_stale = on_stale
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"output {attempt_id}", daemon=True)
        self.offset = 0

    def start(self) -> None:
        self._thread.start()

    def end(self, give_up: Callable[[], bool]) -> int:
        """Call after the buffer was closed. Returns the offset at which the tail begins.

        What is on its way is not waited for: the gateway drops what it gets twice.
        """
        while not self._only_tail_is_left() and self._thread.is_alive():
            if give_up():
                break
            self._thread.join(GATHER_SECONDS)
        self._over.set()
        return self.tail_offset()

    def is_behind(self) -> bool:
        """Whether more than the tail is still to be sent."""
        return not self._only_tail_is_left()

    def tail_offset(self) -> int:
        return max(self.offset, self._buffer.size_bytes - self._tail_bytes)

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                there = self._buffer.wait_beyond(self.offset, _IDLE_SECONDS)
                if self._buffer.closed and self._only_tail_is_left():
                    return
                if there:
                    self._send()
                    # Gather, unless there is a chunk's worth already or nothing more comes.
                    self._buffer.wait_beyond(self.offset + DEFAULT_CHUNK_BYTES - 1, GATHER_SECONDS)
        except GatewayStaleError:
            if not self._over.is_set():
                self._on_stale()
        except NodePoolError:
            # Refused or nobody waits: the rest is in the result's log.
            return

    def _only_tail_is_left(self) -> bool:
        return self._buffer.size_bytes - self.offset <= self._tail_bytes

    def _send(self) -> None:
        request = pb.AppendOutputRequest(
            node_id=self._node_id,
            attempt_id=self._attempt_id,
            offset=self.offset,
            data=self._buffer.chunk(self.offset),
        )
        answer = self._link.append_output(request, self._over.is_set)
        if answer.next_offset <= self.offset:
            # The gateway asks for earlier bytes, or takes none: not in a tight loop.
            self._over.wait(_IDLE_SECONDS)
        self.offset = min(answer.next_offset, self._buffer.size_bytes)
        if answer.stop_requested:
            self._on_stop_asked()


def monotonic_seconds() -> float:
    """A clock that also counts while the machine sleeps, where there is one: leases end meanwhile."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
