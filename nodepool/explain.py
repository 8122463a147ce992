"""Why a task waits: what keeps it from each node, and what would place it.

Pure. Nothing is suggested that was not tried: the placement itself runs with the change, on the fleet
as it is now. Where no change of the task places it now, acts of nodes' owners and of the operator are
tried the same way; then what would let it in once the nodes have nothing else to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from nodepool import placement
from nodepool.changes import Asked, Pool, as_if, changes
from nodepool.fleet import Fleet
from nodepool.node import MAX_TASKS_LIMIT
from nodepool.placement import Decision
from nodepool.resources import RESOURCE_NAMES, Claim
from nodepool.task import LocationMode
from nodepool.trust import RANK, SCORE_OF, TIERS, Tier

# Begins the sentence of a suggestion that places the task later and not now.
ONCE_IDLE = "once the nodes have less to do: "
_MAX_SUGGESTIONS = 12
_TASKS = RESOURCE_NAMES.index("tasks")


@dataclass(frozen=True, slots=True)
class Suggestion:
    """`field` is empty for what the task's owner cannot do by changing the task.

    `nodes` would take the task at this moment; 0 where that comes later.
    """

    field: str
    value: str
    sentence: str
    nodes: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """`could_run`: the nodes that would take the task as it is if nothing were reserved anywhere.

    `elsewhere` nodes would take it now, if it had waited long enough for the region that it prefers.
    """

    decision: Decision
    could_run: tuple[str, ...]
    elsewhere: int
    can_never_run: bool
    suggestions: tuple[Suggestion, ...]

    def sentence(self) -> str:
        if self.decision.ranked:
            return f"node {self.decision.ranked[0]} can take it now, of {len(self.decision.ranked)} that can"
        reason = self.decision.reason()
        if not self.could_run:
            return reason
        return f"{reason}; {nodes_in_words(len(self.could_run))} can run it once there is room"


def explain(asked: Asked, pool: Pool) -> Explanation:
    decision = placement.decide(asked.wish(pool.default_memory_mb), pool.fleet)
    could_run = pool.takers(_patient(asked), pool.idle)
    suggestions: list[Suggestion] = []
    if not decision.ranked:
        suggestions = _suggestions(asked, pool, could_run)
    elsewhere = 0 if decision.ranked else len(pool.takers(_patient(asked)))
    hopeless = _can_never_run(asked, pool, decision)
    return Explanation(decision, could_run, elsewhere, hopeless, tuple(suggestions[:_MAX_SUGGESTIONS]))


def _patient(asked: Asked) -> Asked:
    """As it will be once it has waited for the region that it prefers."""
    return replace(asked, relaxed=True) if asked.location_mode is LocationMode.PREFER else asked


def _can_never_run(asked: Asked, pool: Pool, decision: Decision) -> bool:
    """Waiting alone cannot help: nothing that keeps it out passes by itself."""
    if decision.looked_at == 0 or not decision.never_fits():
        return False
    wish = _patient(asked).wish(pool.default_memory_mb)
    return placement.decide(wish, pool.fleet).never_fits()


def _suggestions(asked: Asked, pool: Pool, could_run: tuple[str, ...]) -> list[Suggestion]:
    now = changes(asked, pool, pool.fleet)
    if now:
        return [Suggestion(one.field, one.value, one.sentence, one.nodes) for one in now]
    found = _acts(asked, pool, pool.fleet)
    if not could_run:
        found += [
            _later(Suggestion(one.field, one.value, one.sentence, one.nodes))
            for one in changes(asked, pool, pool.idle)
        ]
        if not found:
            found = [_later(act) for act in _acts(asked, pool, pool.idle)]
        if not found:
            found = [_another_node(asked, pool)]
    return found


def _later(suggestion: Suggestion) -> Suggestion:
    words = f"{ONCE_IDLE}{suggestion.sentence} ({nodes_in_words(suggestion.nodes)} can take it then)"
    return replace(suggestion, sentence=words, nodes=0)


def _acts(asked: Asked, pool: Pool, fleet: Fleet) -> list[Suggestion]:
    """What others could do, tried on the fleet as it would be then; what helps most nodes first."""
    resumed = np.zeros_like(fleet.draining)
    returned = fleet.present.copy()
    slots = fleet.capacity.copy()
    slots[_TASKS, ~fleet.pushed] = MAX_TASKS_LIMIT
    tries: tuple[tuple[Fleet, str], ...] = (
        (as_if(fleet, draining=resumed), "the owner of {} resumes it: it is draining"),
        (as_if(fleet, online=returned), "the owner of {} starts it again: it is offline"),
        (
            as_if(fleet, draining=resumed, online=returned),
            "the owner of {} starts it again and resumes it: it is offline and draining",
        ),
        (as_if(fleet, capacity=slots), "the owner of {} offers more task slots there (--max-tasks)"),
        (
            as_if(fleet, allow_pushed=True),
            "the operator gives work to nodes without an agent, such as {} (PUSH_TO_NODES)",
        ),
    )
    acts = []
    helped: set[str] = set()
    for other, words in tries:
        takers = [node_id for node_id in pool.takers(asked, other) if node_id not in helped]
        if takers:
            helped.update(takers)
            acts.append(Suggestion("", "", words.format(takers[0]), len(takers)))
    return sorted([*acts, *_more_credit(asked, pool, fleet)], key=lambda act: -act.nodes)


def _more_credit(asked: Asked, pool: Pool, fleet: Fleet) -> Iterator[Suggestion]:
    """Good work of a user's nodes raises the score, and so does the operator."""
    for tier in reversed(TIERS[: RANK[asked.tier]]):
        takers = pool.takers(replace(asked, tier=tier), fleet)
        if takers:
            words = f"a credit score of {SCORE_OF[tier]} or more opens nodes of {tier} trust to your tasks"
            yield Suggestion("", "", words, len(takers))
            return


def _another_node(asked: Asked, pool: Pool) -> Suggestion:
    """Nothing that is here can be made to do: say what would have to join."""
    if asked.node_id and asked.node_id not in pool.fleet.row_of:
        words = f"the owner of {asked.node_id} brings it back: it is not in the pool"
    else:
        words = (
            f"another node joins, with {_amounts(asked.wish(pool.default_memory_mb).claim)} or more to offer"
        )
        wishes = (
            (asked.gpu_name, "the GPU {}"),
            ("" if asked.region == "any" else asked.region, "in {}"),
            (asked.min_trust or "", "of {} trust or more"),
            ("" if asked.tier is Tier.HIGH or asked.node_id else asked.tier, "of {} trust at most"),
        )
        words = ", ".join([words, *(form.format(word) for word, form in wishes if word)])
    return Suggestion("", "", words, 0)


def _amounts(claim: Claim) -> str:
    parts = (
        f"{claim.memory_mb} MiB of memory",
        f"cpu_score {claim.cpu_score}" if claim.cpu_score else "",
        f"gpu_score {claim.gpu_score}" if claim.gpu_score else "",
        f"{claim.gpu_memory_gb} GiB of GPU memory" if claim.gpu_memory_gb else "",
    )
    return ", ".join(part for part in parts if part)


def nodes_in_words(count: int) -> str:
    return f"{count} node" if count == 1 else f"{count} nodes"
