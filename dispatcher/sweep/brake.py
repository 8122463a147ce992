"""The brake: many nodes are silent at once, and their work stays theirs until it is known whose fault it is.

Their silence is not the pool's, and their work goes elsewhere, where the pool was whole all the while: it
writes SQL and the broker now, nothing was away lately, and other nodes are heard from as far as those were.
Nobody is blamed for it: a line between may have been cut, and it is the pool's guess. A part of the sweep.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

import psutil

from dispatcher.context import Dispatcher
from dispatcher.sweep.own_outages import SweepOutages
from nodepool.domain.nodes import mass_silence
from nodepool.domain.nodes.failure_detector import FailureDetector
from nodepool.stores.redis import keys
from nodepool.stores.redis.liveness import Liveness
from nodepool.stores.sql import nodes as node_store, pool_records

log = logging.getLogger(__name__)
_SHOUT_SECONDS = 30.0


class Brake:
    """For one thread. Raises UnavailableError."""

    def __init__(self, dispatcher: Dispatcher, detector: FailureDetector, outages: SweepOutages) -> None:
        self._dispatcher, self._detector, self._outages = dispatcher, detector, outages
        self._liveness = Liveness(dispatcher.redis)
        self._shouted_at = float("-inf")

    def held(self, late: Mapping[str, float], busy: Collection[str]) -> frozenset[str]:
        """Late nodes whose work stays theirs for now."""
        held = self._detector.braked(late, busy)
        if held and self._liveness.operator_released():
            log.warning("the operator says that %d silent nodes are really gone", len(held))
            return frozenset()
        held -= self._gone(held)
        if held:
            self._shout(len(held))
        elif self._shouted_at > float("-inf"):
            self._shouted_at = float("-inf")
            log.warning("the brake is off again")
        return held

    def _gone(self, held: frozenset[str]) -> frozenset[str]:
        if not held or not self._outages.was_whole():
            return frozenset()
        self._write()
        addresses, own = self._dispatcher.database.read(node_store.peer_addresses), _own_addresses()
        reach = {node_id: mass_silence.reach_of(address, own) for node_id, address in addresses.items()}
        heard = [reach.get(node_id) for node_id in self._detector.heard()]
        gone = mass_silence.really_gone({node_id: reach.get(node_id) for node_id in held}, heard)
        if gone:
            log.warning(
                "%d nodes with work vanished at once, and the pool is whole and hears %d others: their work "
                "goes elsewhere, and none of them is blamed",
                len(gone),
                len(heard),
            )
        return gone

    def _write(self) -> None:
        """That the pool answers is known by now; whether it can do what would follow, this says."""
        now = self._dispatcher.clock()
        self._dispatcher.database.write(lambda connection: pool_records.probe_write(connection, now))
        self._liveness.probe_write()

    def _shout(self, count: int) -> None:
        now = self._dispatcher.steady()
        if now - self._shouted_at < _SHOUT_SECONDS:
            return
        self._shouted_at = now
        log.error(
            "%d nodes with work vanished at once: that may be the pool's network or Redis and not they; "
            "nothing of theirs is given away until some are back, or others are heard from as far while the "
            "pool is whole, for %g s at the most, or until an operator sets %s in Redis",
            count,
            self._detector.brake_seconds,
            keys.RELEASE,
        )


def _own_addresses() -> frozenset[str]:
    """Of this machine, whose lines say nothing of those of others."""
    found = (address.address for of_one in psutil.net_if_addrs().values() for address in of_one)
    return frozenset(address.partition("%")[0] for address in found)
