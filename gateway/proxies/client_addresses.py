"""Whose call it is: the one place that tells a call's client from the balancer that it came through.

Limits, locks, calls to nodes and lines of the log go by what is found here. Knows no limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache, partial

from gateway.auth.rate_limit import counted_of
from nodepool.domain import client_address
from nodepool.domain.client_address import ClientAddress
from nodepool.domain.nodes.push_addresses import is_within
from nodepool.settings import Settings

_ADDRESSES = 4096
# All together: whom a balancer cannot name.
_UNNAMED = "unnamed"
# As invocation_metadata() gives it.
Metadata = Iterable[tuple[str, str | bytes]] | None


class ClientAddresses:
    """`announced` has the client of each connection that came with a PROXY header, by its peer's name."""

    def __init__(self, settings: Settings) -> None:
        self.announced: dict[str, str] = {}
        self._trusted = settings.trusted_proxy_networks
        self._header = settings.trusted_proxy_header
        self._of_peer = lru_cache(_ADDRESSES)(counted_of)
        self._of_address = lru_cache(_ADDRESSES)(ClientAddress.of)
        self._behind = lru_cache(_ADDRESSES)(self._look_behind)
        self._is_trusted: Callable[[str], bool] = lru_cache(_ADDRESSES)(
            partial(is_within, networks=self._trusted)
        )

    def of_call(self, peer: str, metadata: Callable[[], Metadata]) -> ClientAddress:
        """Of the connection's peer, or of whom it is trusted to speak for. `metadata` is the call's."""
        client = self.of_connection(peer)
        if not self._trusted or not self._is_trusted(client.exact):
            return client
        name = self._header.value
        values = tuple(str(value) for key, value in metadata() or () if key == name)
        return self._behind(client, values) if values else client

    def of_connection(self, peer: str) -> ClientAddress:
        announced = self.announced.get(peer)
        return self._of_peer(peer) if announced is None else self._of_address(announced, _UNNAMED)

    def bounded(self, peer: str) -> str:
        """Whose connections are counted with it; empty for a balancer's own, which has calls of many."""
        client = self.of_connection(peer)
        return "" if self._trusted and self._is_trusted(client.exact) else client.counted

    def _look_behind(self, direct: ClientAddress, values: tuple[str, ...]) -> ClientAddress:
        named = client_address.hops(self._header, values)
        found = client_address.client_behind(direct.exact, named, self._trusted)
        return direct if found == direct.exact else ClientAddress.of(found)
