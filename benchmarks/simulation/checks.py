"""The invariants, read from Redis and SQL when everything is still: what must never be."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlalchemy import select

from benchmarks.simulation.stage import Stage
from nodepool.domain.nodes.node import NodeView
from nodepool.domain.resources import RESOURCE_NAMES, Claim, Resources, capacity_of
from nodepool.domain.scheduling.fleet import Fleet
from nodepool.domain.scheduling.placement import Requirements, decide
from nodepool.domain.scheduling.request import request_of, waiting_task
from nodepool.domain.tasks.states import LocationMode, TaskState
from nodepool.stores.sql import nodes as node_store, placements as placing, tasks as task_store
from nodepool.stores.sql.attempt_rows import LiveAttempt
from nodepool.stores.sql.tables import tasks

_AT_ONCE = 1000
_SHOWN = 20
_LIVE_TASKS = frozenset({TaskState.PLACED, TaskState.RUNNING})


class Violations:
    """Counted by kind, with the first few in words."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: list[str] = []

    def add(self, kind: str, words: str) -> None:
        self.counts[kind] += 1
        if len(self.examples) < _SHOWN:
            self.examples.append(f"{kind}: {words}")

    def total(self) -> int:
        return self.counts.total()


def check(stage: Stage) -> Violations:
    """Nothing over-allocated, nothing placed twice, Redis and SQL agree, nobody waits for nothing."""
    found = Violations()
    dispatcher = stage.dispatcher
    views = {view.node_id: view for view in dispatcher.registry.snapshot(stage.settings.node_late_seconds)}
    listed = _listed(stage, views)
    live = dispatcher.database.read(task_store.live_attempts)
    _check_nodes(found, _capacities(stage), views, listed)
    _check_attempts(found, listed, live)
    _check_tasks(found, stage, live)
    _check_waiting(found, stage, Fleet.of(views.values()))
    return found


def _listed(stage: Stage, views: Mapping[str, NodeView]) -> dict[str, dict[str, Claim]]:
    """What is assigned in Redis: node -> attempt -> amounts."""
    ids = list(views)
    listed: dict[str, dict[str, Claim]] = {}
    for start in range(0, len(ids), _AT_ONCE):
        listed |= stage.dispatcher.registry.allocations(ids[start : start + _AT_ONCE])
    return listed


def _capacities(stage: Stage) -> dict[str, Claim]:
    """By what the nodes have: one on probation has less room for new tasks, and not for those it runs."""
    overcommit = stage.settings.overcommit
    return {
        row.id: capacity_of(
            Resources(row.cpu_score, row.memory_gb, row.gpu_score, row.gpu_memory_gb),
            max_tasks=row.max_tasks,
            overcommit=overcommit,
        )
        for row in stage.dispatcher.database.read(node_store.active)
    }


def _check_nodes(
    found: Violations,
    capacities: Mapping[str, Claim],
    views: Mapping[str, NodeView],
    listed: Mapping[str, Mapping[str, Claim]],
) -> None:
    for node_id, view in views.items():
        for name in RESOURCE_NAMES:
            claimed = sum(getattr(claim, name) for claim in listed[node_id].values())
            reserved, capacity = getattr(view.reserved, name), getattr(capacities[node_id], name)
            if max(claimed, reserved) > capacity:
                words = f"{name} of {node_id}: {claimed} claimed, {reserved} reserved of {capacity}"
                found.add("over-allocated", words)
            if claimed != reserved:
                found.add("reserved wrongly", f"{name} of {node_id}: {claimed} claimed, {reserved} reserved")


def _check_attempts(
    found: Violations, listed: Mapping[str, Mapping[str, Claim]], live: Sequence[LiveAttempt]
) -> None:
    in_redis = {(node_id, name) for node_id, claims in listed.items() for name in claims}
    in_sql = {(row.node_id, row.id) for row in live}
    for node_id, name in in_redis - in_sql:
        found.add("in Redis only", f"{name} on {node_id}")
    for node_id, name in in_sql - in_redis:
        found.add("in SQL only", f"{name} on {node_id}")
    for task_id, count in Counter(row.task_id for row in live).items():
        if count > 1:
            found.add("placed twice", f"{task_id} has {count} attempts at once")


def _check_tasks(found: Violations, stage: Stage, live: Sequence[LiveAttempt]) -> None:
    alive: dict[str, list[int]] = defaultdict(list)
    for row in live:
        alive[row.task_id].append(row.number)
    query = select(tasks.c.id, tasks.c.state, tasks.c.attempt_number)
    for task_id, state, number in stage.dispatcher.database.read(lambda c: c.execute(query).all()):
        wanted = [number] if state in _LIVE_TASKS else []
        if alive[task_id] != wanted:
            found.add("state wrong", f"{task_id} is {state} with the live attempts {alive[task_id]}")


def _check_waiting(found: Violations, stage: Stage, fleet: Fleet) -> None:
    """Whoever waits fits nowhere now."""
    waiting = waiting_by_requirements(stage)
    for requirements, ids in waiting.items():
        ranked = decide(requirements, fleet).ranked
        for task_id in ids if ranked else ():
            found.add("starved", f"{task_id} waits and fits on {len(ranked)} nodes, {ranked[0]} first")


def waiting_by_requirements(stage: Stage) -> dict[Requirements, list[str]]:
    """Who waits in SQL, by what is wished for."""
    dispatcher, now = stage.dispatcher, stage.dispatcher.clock()
    query = select(tasks.c.id).where(tasks.c.state == TaskState.QUEUED)
    rows, failed = dispatcher.database.read(
        lambda c: (
            found := placing.waiting(c, c.execute(query).scalars().all()),
            placing.failed_nodes(c, [row.id for row in found if row.attempt_number]),
        )
    )
    requirements: dict[Requirements, list[str]] = defaultdict(list)
    for row in rows:
        request = request_of(row, failed.get(row.id, frozenset()), frozenset(), stage.settings.default_image)
        task = waiting_task(row, request, stage.settings.default_task_memory_mb)
        patient = now - task.queued_at < stage.settings.region_patience_seconds
        relaxed = task.location_mode is LocationMode.PREFER and not patient
        requirements[replace(task.requirements, relaxed=relaxed)].append(task.task_id)
    return requirements
