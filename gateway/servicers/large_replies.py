"""Large replies in one message: counted in the gateway's memory until they are sent, or their time is up."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING

from gateway.admission import connections

if TYPE_CHECKING:
    from gateway.context import Gateway
    from gateway.servicers.interceptors import Context

# A client that reads slower than this on purpose is cut off; who needs longer downloads in pieces.
LONGEST_SECONDS = 600.0


def hold_until_sent(gateway: Gateway, context: Context, account: int, size_bytes: int) -> None:
    """Raises RateLimitedError where there is no memory for it now. For the event loop's thread."""
    holding = ExitStack()
    holding.enter_context(gateway.memory.hold(account, size_bytes))
    peer = connections.plain_peer(context.peer())
    end = asyncio.get_running_loop().call_later(LONGEST_SECONDS, gateway.reader.end_connection, peer)
    holding.callback(end.cancel)
    context.add_done_callback(lambda _: holding.close())  # type: ignore[arg-type]  # stubs name it
