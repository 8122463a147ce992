"""Why a task waits: what keeps it from each node, and what would place it.

Pure. Nothing is suggested that was not tried: the placement itself runs with the change, on the fleet
as it is now. Where no change of the task places it now, acts of nodes' owners and of the operator are
tried the same way; then what would let it in once the nodes have nothing else to do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nodepool.domain.explain.owner_actions import PlacementSuggestion, another_node, suggested_actions
from nodepool.domain.explain.pool_view import PoolView
from nodepool.domain.explain.task_changes import changes
from nodepool.domain.scheduling import placement
from nodepool.domain.scheduling.placement import Decision
from nodepool.domain.scheduling.request import PlacementRequest
from nodepool.domain.tasks.states import LocationMode

__all__ = ["ONCE_IDLE", "PlacementExplanation", "PlacementSuggestion", "explain", "nodes_in_words"]

# Begins the sentence of a suggestion that places the task later and not now.
ONCE_IDLE = "once the nodes have less to do: "
_MAX_SUGGESTIONS = 12


@dataclass(frozen=True, slots=True)
class PlacementExplanation:
    """`could_run`: the nodes that would take the task as it is if nothing were reserved anywhere.

    `elsewhere` nodes would take it now, if it had waited long enough for the region that it prefers.
    """

    decision: Decision
    could_run: tuple[str, ...]
    elsewhere: int
    can_never_run: bool
    suggestions: tuple[PlacementSuggestion, ...]

    def sentence(self) -> str:
        if self.decision.ranked:
            return f"node {self.decision.ranked[0]} can take it now, of {len(self.decision.ranked)} that can"
        reason = str(self.decision.reason())
        if not self.could_run:
            return reason
        return f"{reason}; {nodes_in_words(len(self.could_run))} can run it once there is room"


def explain(request: PlacementRequest, pool: PoolView) -> PlacementExplanation:
    decision = placement.decide(request.requirements(pool.default_memory_mb), pool.fleet)
    could_run = pool.takers(_patient(request), pool.idle)
    suggestions: list[PlacementSuggestion] = []
    if not decision.ranked:
        suggestions = _suggestions(request, pool, could_run)
    elsewhere = 0 if decision.ranked else len(pool.takers(_patient(request)))
    hopeless = _can_never_run(request, pool, decision)
    return PlacementExplanation(
        decision, could_run, elsewhere, hopeless, tuple(suggestions[:_MAX_SUGGESTIONS])
    )


def _patient(request: PlacementRequest) -> PlacementRequest:
    """As it will be once it has waited for the region that it prefers."""
    return replace(request, relaxed=True) if request.location_mode is LocationMode.PREFER else request


def _can_never_run(request: PlacementRequest, pool: PoolView, decision: Decision) -> bool:
    """Waiting alone cannot help: nothing that keeps it out passes by itself."""
    if decision.looked_at == 0 or not decision.never_fits():
        return False
    requirements = _patient(request).requirements(pool.default_memory_mb)
    return placement.decide(requirements, pool.fleet).never_fits()


def _suggestions(
    request: PlacementRequest, pool: PoolView, could_run: tuple[str, ...]
) -> list[PlacementSuggestion]:
    now = changes(request, pool, pool.fleet)
    if now:
        return [PlacementSuggestion(one.field, one.value, one.sentence, one.nodes) for one in now]
    found = suggested_actions(request, pool, pool.fleet)
    if not could_run:
        found += [
            _later(PlacementSuggestion(one.field, one.value, one.sentence, one.nodes))
            for one in changes(request, pool, pool.idle)
        ]
        if not found:
            found = [_later(act) for act in suggested_actions(request, pool, pool.idle)]
        if not found:
            found = [another_node(request, pool)]
    return found


def _later(suggestion: PlacementSuggestion) -> PlacementSuggestion:
    words = f"{ONCE_IDLE}{suggestion.sentence} ({nodes_in_words(suggestion.nodes)} can take it then)"
    return replace(suggestion, sentence=words, nodes=0)


def nodes_in_words(count: int) -> str:
    return f"{count} node" if count == 1 else f"{count} nodes"
