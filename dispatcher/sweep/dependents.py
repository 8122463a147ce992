"""Tasks that wait for others, looked after from SQL: a page of them each pass, whoever was told of what.

Whoever ends a task lets go on what waits for it. What a process that died left undone, and what ended in
another way, is found here. The number of those that wait changes nothing of what a pass costs.
"""

from __future__ import annotations

from dispatcher.context import Dispatcher
from dispatcher.placing.placement_loop import PlacementLoop
from nodepool.domain.tasks.dependencies import Unit
from nodepool.stores.sql import dependencies
from nodepool.workflows import dependents

_UNITS_AT_ONCE = 200


class DependentKeeper:
    """For the sweep's thread."""

    def __init__(self, dispatcher: Dispatcher, placement_loop: PlacementLoop) -> None:
        self._dispatcher = dispatcher
        self._placement_loop = placement_loop
        self._after: Unit | None = None

    def look(self) -> None:
        """The next page. Raises UnavailableError."""
        dispatcher = self._dispatcher
        units = dispatcher.database.read(lambda c: dependencies.page(c, self._after, _UNITS_AT_ONCE))
        self._after = units[-1] if len(units) == _UNITS_AT_ONCE else None
        if not units:
            return
        settled = dependents.settle(dispatcher.lifecycle.settling, units)
        self._placement_loop.hint(*(hint.id for hint in settled.released))
        dispatcher.lifecycle.tell_dependents(settled)
