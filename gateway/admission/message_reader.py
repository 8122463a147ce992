"""Takes messages off the wire, and bounds the time and the memory that they, and large replies, take.

gRPC reads a message whole before it tells how large it is, up to one limit for all calls. So while a
message is slow to come, the kernel is asked how much came over its connection. What is more than the call
may send ends, and where all of it together is more than the budget, the largest ends first. A message
that comes at once, as nearly all do, costs none of this.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field

import grpc

from gateway.admission import connections
from gateway.admission.arrival import Context
from gateway.admission.message_limits import SMALL_BYTES
from gateway.admission.message_memory import MemoryBudget
from nodepool.domain.errors import NodePoolError, RateLimitedError, StalledError, TooLargeError
from nodepool.domain.limit_names import LimitName

# A client that reads slower than this on purpose is cut off; who needs longer downloads in pieces.
LONGEST_REPLY_SECONDS = 600.0
_LOOK_SECONDS = 0.01
# Of calls that take large messages so many are read at once, until they come or turn out to be slow: what
# comes fast would be there, many times over, before anybody looked.
_READ_AT_ONCE, _FAST_SECONDS = 16, 0.02
# Between two searches for the connections of messages that are slow.
_SEARCH_SECONDS = 0.05
# What may come over a connection besides: other streams' windows, and what frames are made of.
_SLACK_BYTES, _STRANGERS_SLACK_BYTES = 4 << 20, 128 << 10
_BUSY = "the pool receives as much as its memory takes; try again in 5 seconds, or upload as a stream"


@dataclass(eq=False, slots=True)
class _Pending:
    """A message that is awaited."""

    peer: str
    account: int  # 0: a stranger's
    limit: int
    since: float
    scope: asyncio.Timeout
    verdict: NodePoolError | None = None

    def end(self, verdict: NodePoolError) -> None:
        if self.verdict is None and not self.scope.expired():
            self.verdict = verdict
            self.scope.reschedule(asyncio.get_running_loop().time())


@dataclass(slots=True)
class _SlowConnection:
    """A connection with slow messages: what came over it since it was first looked at."""

    descriptor: int
    received_before: int
    delivered: int = 0
    held: int = 0


@dataclass(slots=True)
class MessageReader:
    """Belongs to the event loop's thread. `ports` are the gRPC server's own, none before it has any."""

    budget: MemoryBudget
    stall_seconds: float
    ports: tuple[int, ...] = ()
    _pending: set[_Pending] = field(default_factory=set)
    _lines: dict[str, _SlowConnection] = field(default_factory=dict)
    _searched_at: float = 0.0
    _watching: asyncio.Task[None] | None = None
    _turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_READ_AT_ONCE))

    async def read(
        self, context: Context, peer: str, account: int, limit: int, seconds: float
    ) -> bytes | None:
        """The next message's bytes, None at the end of the stream, which its client may have broken off.

        Raises StalledError where it does not come in time, TooLargeError or RateLimitedError where it is
        too much.
        """
        if limit <= SMALL_BYTES:
            return await self._read(context, peer, account, limit, seconds)
        async with self._turn():
            return await self._read(context, peer, account, limit, seconds)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        await self._turns.acquire()
        slow = asyncio.get_running_loop().call_later(_FAST_SECONDS, self._turns.release)
        try:
            yield
        finally:
            # Where it was slow, its turn was over long ago.
            if slow.when() > asyncio.get_running_loop().time() and not slow.cancelled():
                slow.cancel()
                self._turns.release()

    async def _read(
        self, context: Context, peer: str, account: int, limit: int, seconds: float
    ) -> bytes | None:
        scope = asyncio.timeout(seconds)
        pending = _Pending(peer, account, limit, time.monotonic(), scope)
        self._pending.add(pending)
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        try:
            async with scope:
                raw = await context.read()
        except TimeoutError:
            raise pending.verdict or StalledError(f"no message came for {seconds:g} seconds") from None
        finally:
            self._pending.discard(pending)
        if raw is grpc.aio.EOF:
            return None
        if line := self._lines.get(peer):
            line.delivered += len(raw)
        return bytes(raw)

    def hold_until_sent(self, context: Context, account: int, size_bytes: int) -> None:
        """A large reply in one message counts in the memory until it is sent, or its time is up.

        Raises RateLimitedError where there is no memory for it now.
        """
        holding = ExitStack()
        holding.enter_context(self.budget.hold(account, size_bytes))
        peer = connections.plain_peer(context.peer())
        end = asyncio.get_running_loop().call_later(LONGEST_REPLY_SECONDS, self.end_connection, peer)
        holding.callback(end.cancel)
        context.add_done_callback(lambda _: holding.close())  # type: ignore[arg-type]  # stubs name it

    def end_connection(self, peer: str) -> None:
        """Of a client that does not read: nothing else reaches it."""
        descriptor = connections.connections(self.ports).get(peer)
        if descriptor is not None:
            connections.end(descriptor, peer)

    async def _watch(self) -> None:
        while self._pending:
            await asyncio.sleep(_LOOK_SECONDS)
            before = time.monotonic() - _LOOK_SECONDS
            slow: dict[str, list[_Pending]] = defaultdict(list)
            for pending in self._pending:
                if pending.since <= before:
                    slow[pending.peer].append(pending)
            self._look(slow)
        self._lines.clear()
        self._watching = None

    def _look(self, slow: dict[str, list[_Pending]]) -> None:
        for gone in self._lines.keys() - slow.keys():
            del self._lines[gone]
        self._search(slow.keys() - self._lines.keys())
        for peer, line in self._lines.items():
            received = connections.bytes_received(line.descriptor, peer)
            line.held = max(0, (received or 0) - line.received_before - line.delivered)
            self._judge_line(line, slow[peer])
        self._judge_all(slow)

    def _search(self, peers: Iterable[str]) -> None:
        now = time.monotonic()
        if not peers or now - self._searched_at < _SEARCH_SECONDS:
            return
        self._searched_at = now
        found = connections.connections(self.ports)
        for peer in peers:
            descriptor = found.get(peer)
            received = None if descriptor is None else connections.bytes_received(descriptor, peer)
            if descriptor is not None and received is not None:
                self._lines[peer] = _SlowConnection(descriptor, received)

    def _judge_line(self, line: _SlowConnection, waiting: list[_Pending]) -> None:
        known = any(pending.account for pending in waiting)
        allowed = sum(pending.limit for pending in waiting)
        if line.held > allowed + (_SLACK_BYTES if known else _STRANGERS_SLACK_BYTES):
            for pending in waiting:
                pending.end(TooLargeError(f"the message is too large: at most {pending.limit} bytes"))

    def _judge_all(self, slow: dict[str, list[_Pending]]) -> None:
        """Whoever holds most ends first, until the rest has room."""
        lines = sorted(self._lines.items(), key=lambda item: item[1].held)
        held = self.budget.held_bytes + sum(line.held for _, line in lines)
        while lines and held > self.budget.total_bytes:
            peer, line = lines.pop()
            if not line.held:
                return
            held -= line.held
            for pending in slow[peer]:
                pending.end(RateLimitedError(_BUSY, limit=LimitName.MESSAGE_MEMORY))
