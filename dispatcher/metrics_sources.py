"""What the dispatcher's /metrics reads at a scrape: SQL, the broker, disks, and its picture of the fleet.

Decides nothing, and how often each is read is `nodepool.metrics.sampling`'s.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import partial

import numpy as np

from celeryconfig import task_queues
from dispatcher.context import Dispatcher
from dispatcher.ended_task_counts import EndedTaskCounts
from dispatcher.placing.placement_loop import PlacementLoop
from nodepool.domain.errors import UnavailableError
from nodepool.domain.regions import TASK_REGIONS
from nodepool.domain.resources import RESOURCE_NAMES
from nodepool.domain.scheduling.fleet import Fleet
from nodepool.domain.tasks.wait_causes import wait_cause
from nodepool.domain.trust.tiers import TIERS
from nodepool.metrics import catalogue
from nodepool.metrics.catalogue import SampledMetric, Samples, bounded
from nodepool.metrics.disks import disk_samples
from nodepool.metrics.sampling import Sampler, Source
from nodepool.stores.redis.broker_status import broker_status, queue_lengths
from nodepool.stores.redis.sweep_mark import SweepMarks
from nodepool.stores.sql import notifications, pool_records, pool_statistics

Found = Mapping[SampledMetric, Samples]

_OFTEN_SECONDS = 5.0
_SELDOM_SECONDS = 60.0
# The fleet as it was longer ago than this is not shown as the present.
_FLEET_SECONDS = 60.0
_NOTHING: tuple[str, ...] = ()
_MIB, _GIB = 1 << 20, 1 << 30
_QUEUES = tuple(str(queue.name) for queue in task_queues)
# Of each resource: what it is called here, and how many of the metric's units one of its own is.
_RESOURCES = {
    "cpu_score": (catalogue.cpu_capacity, catalogue.cpu_reserved, 1),
    "memory_mb": (catalogue.memory_capacity, catalogue.memory_reserved, _MIB),
    "gpu_score": (catalogue.gpu_capacity, catalogue.gpu_reserved, 1),
    "gpu_memory_gb": (catalogue.gpu_memory_capacity, catalogue.gpu_memory_reserved, _GIB),
    "tasks": (catalogue.slots_capacity, catalogue.slots_reserved, 1),
}


def sampler(dispatcher: Dispatcher, placement_loop: PlacementLoop, hostname: str, threads: int) -> Sampler:
    settings = dispatcher.settings
    return Sampler(
        [
            Source("fleet", partial(_fleet, placement_loop)),
            Source("celery", partial(_celery, hostname, threads)),
            Source("tasks", partial(_tasks, dispatcher), _OFTEN_SECONDS),
            Source("ended_tasks", partial(_ended_tasks, dispatcher, EndedTaskCounts()), _SELDOM_SECONDS),
            Source("broker", partial(_broker, dispatcher), _OFTEN_SECONDS),
            Source("ledger", partial(_ledger, dispatcher), _OFTEN_SECONDS),
            Source("notifications", partial(_notifications, dispatcher), _OFTEN_SECONDS),
            Source("disk", partial(disk_samples, settings.watched_folders), _OFTEN_SECONDS),
        ]
    )


def _tasks(dispatcher: Dispatcher) -> Found:
    by_state, waiting = dispatcher.database.read(
        lambda c: (
            pool_statistics.count_by_state(c, pool_statistics.UNFINISHED),
            pool_statistics.waiting(c),
        )
    )
    now = dispatcher.clock()
    counts: defaultdict[tuple[str, ...], float] = defaultdict(float)
    oldest: dict[tuple[str, ...], float] = {}
    for some in waiting:
        cause = wait_cause(some.reason_code, some.reason_parameters)
        key = (bounded(some.tier, TIERS), bounded(some.region, TASK_REGIONS), cause)
        counts[key] += some.count
        oldest[key] = max(oldest.get(key, 0.0), now - some.oldest_at)
    return {
        catalogue.tasks: {(state.value,): count for state, count in by_state.items()},
        catalogue.tasks_waiting: counts,
        catalogue.oldest_wait: oldest,
    }


def _ended_tasks(dispatcher: Dispatcher, counts: EndedTaskCounts) -> Found:
    by_state = dispatcher.database.read(counts.look)
    return {catalogue.tasks: {(state.value,): count for state, count in by_state.items()}}


def _broker(dispatcher: Dispatcher) -> Found:
    status = broker_status(dispatcher.redis)
    lengths = queue_lengths(dispatcher.redis, _QUEUES)
    seen = SweepMarks(dispatcher.redis).seen()
    return {
        catalogue.sweep_age: {} if seen is None else {_NOTHING: seen.age_seconds},
        catalogue.broker_memory: {_NOTHING: status.memory_used_bytes},
        catalogue.broker_memory_limit: {_NOTHING: status.memory_limit_bytes},
        catalogue.broker_clients: {_NOTHING: status.clients},
        catalogue.broker_clients_limit: {_NOTHING: status.clients_limit},
        catalogue.broker_evicted: {_NOTHING: status.evicted_keys},
        catalogue.broker_rejected: {_NOTHING: status.rejected_connections},
        catalogue.celery_queue_length: {(queue,): length for queue, length in lengths.items()},
    }


def _ledger(dispatcher: Dispatcher) -> Found:
    last = dispatcher.database.read(pool_records.last_verification)
    if last is None:
        return {}
    return {
        catalogue.ledger_verified_at: {_NOTHING: last.at},
        catalogue.ledger_right: {_NOTHING: float(last.is_right)},
        catalogue.ledger_verified_entries: {_NOTHING: last.entries},
    }


def _notifications(dispatcher: Dispatcher) -> Found:
    waiting = dispatcher.database.read(notifications.count_waiting)
    return {catalogue.notifications_waiting: {_NOTHING: waiting}}


def _celery(hostname: str, threads: int) -> Found:
    served: dict[tuple[str, ...], float] = {(queue,): 1.0 for queue in _QUEUES}
    return {
        catalogue.celery_active_consumer_count: served,
        catalogue.celery_active_worker_count: served,
        catalogue.celery_active_process_count: dict.fromkeys(served, float(threads)),
        catalogue.celery_worker_up: {(hostname,): 1.0},
    }


def _fleet(placement_loop: PlacementLoop) -> Found:
    if placement_loop.idle_seconds() > _FLEET_SECONDS:
        raise UnavailableError("the picture of the fleet is old")
    waiting = len(placement_loop.planner.queue)
    return {catalogue.wait_queue_tasks: {_NOTHING: waiting}, **fleet_samples(placement_loop.planner.fleet)}


def fleet_samples(fleet: Fleet) -> Found:
    """Read beside the thread that changes it: a node more or less does not matter here."""
    present, online, draining = fleet.present.copy(), fleet.online.copy(), fleet.draining.copy()
    tier, capacity, reserved = fleet.tier.copy(), fleet.capacity.copy(), fleet.reserved.copy()
    masks = {
        "online": present & online & ~draining,
        "draining": present & online & draining,
        "offline": present & ~online,
    }
    found: dict[SampledMetric, Samples] = {
        catalogue.nodes: {
            (state, str(name)): float(np.count_nonzero(mask & (tier == rank)))
            for state, mask in masks.items()
            for rank, name in enumerate(TIERS)
        }
    }
    here = present & online
    for index, name in enumerate(RESOURCE_NAMES):
        of_capacity, of_reserved, unit = _RESOURCES[name]
        found[of_capacity] = {_NOTHING: float(capacity[index, here].sum()) * unit}
        found[of_reserved] = {_NOTHING: float(reserved[index, here].sum()) * unit}
    return found
