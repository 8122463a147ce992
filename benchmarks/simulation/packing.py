"""How full the fleet is, beside the most that could be.

The bound is the fractional relaxation by resource: as if tasks could be cut in pieces, every node could run
any piece, and no other resource were scarce. Of each resource no more can be used than there is, and no more
than is asked for by all tasks that some node could run if it were empty. No placement reaches it in general,
since trust, regions and GPUs keep tasks from nodes: the share is on the safe side.
"""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from sqlalchemy import select

from benchmarks.simulation.stage import Stage
from nodepool.domain.resources import RESOURCE_NAMES, Claim
from nodepool.domain.scheduling.fleet import Fleet
from nodepool.domain.scheduling.placement import decide
from nodepool.domain.scheduling.request import request_of
from nodepool.domain.tasks.states import FINAL_TASK_STATES
from nodepool.stores.sql.tables import tasks
from nodepool.stores.sql.task_rows import QueuedTask
from nodepool.stores.sql.typed_rows import columns

_NOTHING = Claim(0, 0, 0, 0, tasks=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """`share` is the mean over the scarce resources: those with more demand than capacity, or where there are
    none the one with most demand for its capacity."""

    share: float
    scarce: list[str]
    shares: dict[str, float]  # used of the bound, by resource
    used: dict[str, float]  # used of the capacity, by resource


def packing_of(stage: Stage) -> Packing:
    """Of what is reserved now, for the tasks that have not ended."""
    views = stage.dispatcher.registry.snapshot(stage.settings.node_late_seconds)
    capacity, used = (
        np.array([[getattr(getattr(view, part), name) for view in views] for name in RESOURCE_NAMES]).sum(1)
        for part in ("capacity", "reserved")
    )
    demand = _demand(stage, Fleet.of(replace(view, reserved=_NOTHING) for view in views))
    bound = np.minimum(capacity, demand)
    there = [index for index in range(len(RESOURCE_NAMES)) if bound[index] > 0]
    shares = {RESOURCE_NAMES[index]: float(used[index] / bound[index]) for index in there}
    wanted = {RESOURCE_NAMES[index]: float(demand[index] / capacity[index]) for index in there}
    scarce = [name for name in wanted if wanted[name] > 1] or [max(wanted, key=lambda name: wanted[name])]
    return Packing(
        share=statistics.fmean(shares[name] for name in scarce),
        scarce=scarce,
        shares=shares,
        used={RESOURCE_NAMES[index]: float(used[index] / capacity[index]) for index in there},
    )


def _demand(stage: Stage, idle: Fleet) -> npt.NDArray[np.int64]:
    final = [state.value for state in FINAL_TASK_STATES]
    query = select(*columns(QueuedTask, tasks)).where(tasks.c.state.not_in(final))
    counted = Counter(
        request_of(row, frozenset(), frozenset(), stage.settings.default_image).requirements(
            stage.settings.default_task_memory_mb
        )
        for row in stage.dispatcher.database.read(lambda c: QueuedTask.from_rows(c.execute(query)))
    )
    total = np.zeros(len(RESOURCE_NAMES), dtype=np.int64)
    for requirements, count in counted.items():
        if decide(requirements, idle).ranked:
            total += count * np.array([getattr(requirements.claim, name) for name in RESOURCE_NAMES])
    return total
