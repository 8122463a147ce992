"""Which node runs a task for comparison: drawn by chance, trusted ones where there are any.

Not the best one: a node that makes itself attractive must not be drawn for a friend's task. Owners are drawn
before nodes, so that many nodes are no better than one, and neighbours of those who ran it come last.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace

from dispatcher.context import Dispatcher
from nodepool.domain import ids
from nodepool.domain.scheduling.fleet import Fleet
from nodepool.domain.scheduling.placement import decide
from nodepool.domain.scheduling.wait_queue import WaitingTask
from nodepool.domain.trust.tiers import TIERS
from nodepool.domain.trust.voting import Checker, may_check
from nodepool.stores.sql import owner_relations, replicas as replica_store, verification_records

# Of a large fleet the best so many are drawn from.
_MOST_CANDIDATES = 500


def drawn(dispatcher: Dispatcher, fleet: Fleet, tasks: Sequence[WaitingTask]) -> list[WaitingTask]:
    """The tasks, those that are runs for comparison bound to a node that has room for them now.

    Where none has, a run waits for the first that will.
    """
    candidates = {
        task.task_id: decide(task.requirements, fleet).ranked[:_MOST_CANDIDATES]
        for task in tasks
        if ids.parent_of(task.task_id)
    }
    if not any(candidates.values()):
        return list(tasks)
    nodes = {node_id for ranked in candidates.values() for node_id in ranked}
    trusted, extra, near = dispatcher.database.read(
        lambda c: (
            verification_records.trusted_among(c, sorted(nodes)),
            replica_store.extra_runs(c, candidates),
            {
                task.task_id: owner_relations.neighbours(
                    c, candidates[task.task_id], task.requirements.not_owners
                )
                for task in tasks
                if task.task_id in candidates
            },
        )
    )

    def checker(node_id: str) -> Checker:
        row = fleet.row_of[node_id]
        tier = TIERS[int(fleet.tier[row])]
        return Checker(node_id=node_id, owner_id=int(fleet.owner[row]), tier=tier, trusted=node_id in trusted)

    found = []
    for task in tasks:
        ranked = candidates.get(task.task_id, ())
        strangers = [node_id for node_id in ranked if node_id not in near.get(task.task_id, ())]
        choice = may_check(map(checker, strangers or ranked), (), disputed=task.task_id in extra)
        node_id = _one_of(choice) if choice else task.requirements.node_id
        found.append(replace(task, requirements=replace(task.requirements, node_id=node_id)))
    return found


def _one_of(choice: Sequence[Checker]) -> str:
    owner_id = secrets.choice(sorted({checker.owner_id for checker in choice}))
    return secrets.choice([checker.node_id for checker in choice if checker.owner_id == owner_id])
