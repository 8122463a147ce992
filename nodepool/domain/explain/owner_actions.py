"""What others than the task's owner could do so that a node takes it, each act tried by placing.

Pure. The placement runs on the fleet as it would be after the act.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from nodepool.domain.explain.pool_view import PoolView, as_if
from nodepool.domain.nodes.node import MAX_TASKS_LIMIT
from nodepool.domain.resources import RESOURCE_NAMES, Claim
from nodepool.domain.scheduling.fleet import ANY_MESSAGE, Fleet
from nodepool.domain.scheduling.request import PlacementRequest
from nodepool.domain.sizes import size_words
from nodepool.domain.trust.tiers import RANK, SCORE_OF, TIERS, Tier

_SMALLER = (
    "its package becomes smaller than BOUND (.hivemindignore), or the owner of {} lets its worker take "
    "larger messages, or starts an agent there"
)
_TASKS = RESOURCE_NAMES.index("tasks")


@dataclass(frozen=True, slots=True)
class PlacementSuggestion:
    """`field` is empty for what the task's owner cannot do by changing the task.

    `nodes` would take the task at this moment; 0 where that comes later.
    """

    field: str
    value: str
    sentence: str
    nodes: int


def suggested_actions(request: PlacementRequest, pool: PoolView, fleet: Fleet) -> list[PlacementSuggestion]:
    """What others could do, tried on the fleet as it would be then; what helps most nodes first."""
    tries = (*_acts(pool, fleet), *_acts_of_workers(request, fleet))
    found = []
    helped: set[str] = set()
    for other, words in tries:
        takers = [node_id for node_id in pool.takers(request, other) if node_id not in helped]
        if takers:
            helped.update(takers)
            found.append(PlacementSuggestion("", "", words.format(takers[0]), len(takers)))
    return sorted([*found, *_more_credit(request, pool, fleet)], key=lambda act: -act.nodes)


def _acts(pool: PoolView, fleet: Fleet) -> tuple[tuple[Fleet, str], ...]:
    # An agent without its engine is kept like a draining one, and resuming it would not help.
    resumed = fleet.draining & (pool.engine_away | pool.engine_away_too)
    mended = fleet.draining & ~pool.engine_away
    fit = fleet.draining & ~fleet.unfit
    returned = fleet.present.copy()
    slots = fleet.capacity.copy()
    slots[_TASKS, ~(fleet.pushed | pool.on_probation)] = MAX_TASKS_LIMIT
    return (
        (as_if(fleet, draining=resumed), "the owner of {} resumes it: it is draining"),
        (as_if(fleet, draining=mended), "the owner of {} starts Docker there again: its agent has none"),
        (
            as_if(fleet, unfit=np.zeros_like(fleet.unfit), draining=fit),
            "the owner of {} frees its disk, or what else it says of itself (hivemind nodes): it is unfit",
        ),
        (as_if(fleet, online=returned), "the owner of {} starts it again: it is offline"),
        (
            as_if(fleet, draining=resumed, online=returned),
            "the owner of {} starts it again and resumes it: it is offline and draining",
        ),
        (as_if(fleet, capacity=slots), "the owner of {} offers more task slots there (--max-tasks)"),
        (
            as_if(fleet, owner_only=np.zeros_like(fleet.owner_only)),
            "the owner of {} installs bubblewrap or Docker there: tasks of others could read its files now",
        ),
        (
            as_if(fleet, capabilities=np.where(fleet.pushed, 0, -1)),
            "the owner of {} brings its agent up to date: it is too old for what the task is given",
        ),
        (
            as_if(fleet, allow_pushed=True),
            "the operator gives work to nodes without an agent, such as {} (PUSH_TO_NODES)",
        ),
    )


def _acts_of_workers(request: PlacementRequest, fleet: Fleet) -> tuple[tuple[Fleet, str], ...]:
    """At nodes without an agent."""
    nobody = np.zeros_like(fleet.untold)
    told = {
        "untold": nobody,
        "draining": fleet.draining & ~fleet.untold,
        "online": fleet.online | fleet.untold,
    }
    ours = {"later_generation": nobody, "draining": fleet.draining & ~fleet.later_generation}
    return (
        (
            as_if(fleet, message_bytes=np.full_like(fleet.message_bytes, ANY_MESSAGE)),
            _SMALLER.replace("BOUND", size_words(request.over_bytes)),
        ),
        (as_if(fleet, **told), "the worker of {} reports its status: it has not since it registered"),
        (
            as_if(fleet, **ours),
            "the owner of {} starts an agent there: its worker speaks a later generation of the protocol",
        ),
    )


def _more_credit(request: PlacementRequest, pool: PoolView, fleet: Fleet) -> Iterator[PlacementSuggestion]:
    """Good work of a user's nodes raises the score, and so does the operator."""
    for tier in reversed(TIERS[: RANK[request.tier]]):
        takers = pool.takers(replace(request, tier=tier), fleet)
        if takers:
            words = f"a credit score of {SCORE_OF[tier]} or more opens nodes of {tier} trust to your tasks"
            yield PlacementSuggestion("", "", words, len(takers))
            return


def another_node(request: PlacementRequest, pool: PoolView) -> PlacementSuggestion:
    """Nothing that is here can be made to do: say what would have to join."""
    if request.node_id and request.node_id not in pool.fleet.row_of:
        words = f"the owner of {request.node_id} brings it back: it is not in the pool"
    else:
        needed = request.requirements(pool.default_memory_mb)
        words = f"another node joins, with {_amounts(needed.claim)} or more to offer"
        further = (
            (request.gpu_name, "the GPU {}"),
            ("" if request.region == "any" else request.region, "in {}"),
            (request.min_trust or (Tier.NORMAL if request.secrets_of else ""), "of {} trust or more"),
            ("" if request.tier is Tier.HIGH or request.node_id else request.tier, "of {} trust at most"),
        )
        words = ", ".join([words, *(form.format(word) for word, form in further if word)])
    return PlacementSuggestion("", "", words, 0)


def _amounts(claim: Claim) -> str:
    parts = (
        f"{claim.memory_mb} MiB of memory",
        f"cpu_score {claim.cpu_score}" if claim.cpu_score else "",
        f"gpu_score {claim.gpu_score}" if claim.gpu_score else "",
        f"{claim.gpu_memory_gb} GiB of GPU memory" if claim.gpu_memory_gb else "",
    )
    return ", ".join(part for part in parts if part)
