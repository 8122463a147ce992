"""Live output whose attempt has ended without anybody telling Redis so; a part of the sweep."""

from __future__ import annotations

from collections.abc import Collection

from dispatcher.context import Dispatcher
from dispatcher.sweep.reconciler import Live

_LOOK_SECONDS = 10.0


class LeftOutputs:
    """For one thread. Raises UnavailableError."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._outputs = dispatcher.lifecycle.outputs
        self._next_at = float("-inf")
        self._all_counted = False

    def look(self) -> Collection[str]:
        """Attempts with output, every so often. Before SQL is read: whoever has output now is live there,
        or has ended."""
        now = self._dispatcher.clock()
        if now < self._next_at:
            return ()
        if not self._all_counted:
            self._outputs.count_uncounted()
            self._all_counted = True
        self._next_at = now + _LOOK_SECONDS
        return self._outputs.running()

    def end(self, said: Collection[str], live: Live) -> None:
        """`live` as SQL has had it since."""
        for attempt_id in set(said).difference(row.id for rows in live.values() for row in rows):
            if not self._outputs.end(attempt_id):
                self._outputs.forget(attempt_id)  # counted, and gone by itself
