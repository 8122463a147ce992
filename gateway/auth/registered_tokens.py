"""Tokens that go on counting after their time: of nodes without an agent, whose workers log in only once.

Such a token speaks for the node that was registered with it, and for nothing else, while the pool hears of
that node. Everything but the question belongs to the event loop. Knows no gRPC.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gateway.auth.tokens import CallerIdentity

# Nobody is heard while this gateway, or the broker, is away: as long as this a node need not be heard.
GRACE_SECONDS = 600.0
_FRESH_SECONDS = 1.0
_MAX_REMEMBERED = 8192


@dataclass(frozen=True, slots=True)
class TokenNode:
    """The node of a token, and whether the pool hears of it; None: nobody can say."""

    node_id: str
    heard: bool | None


Ask = Callable[[CallerIdentity], Awaitable[TokenNode | None]]


@dataclass(slots=True)
class _LookedUp:
    node_id: str
    asked_at: float
    let_in_at: float


class RegisteredTokens:
    """`ask` looks for the active node that the identity's token registered."""

    def __init__(self, ask: Ask, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._begun_at = clock()
        self._known: OrderedDict[str, _LookedUp] = OrderedDict()

    async def node_of(self, identity: CallerIdentity) -> str:
        """The node's id; "" where the token speaks for none any more."""
        sha256, now = identity.token_sha256, self._clock()
        known = self._known.get(sha256)
        if known is not None and now - known.asked_at < _FRESH_SECONDS:
            return known.node_id
        found = await self._ask(identity)
        let_in_at = known.let_in_at if known is not None and known.node_id else self._begun_at
        heard = found is not None and (found.heard is not False or now - let_in_at < GRACE_SECONDS)
        node_id = found.node_id if found is not None and heard else ""
        self._known[sha256] = _LookedUp(node_id, now, now if node_id else let_in_at)
        self._known.move_to_end(sha256)
        if len(self._known) > _MAX_REMEMBERED:
            self._known.popitem(last=False)
        return node_id
