"""What the gateway's /metrics reads at a scrape: its calls, memory and lanes, its disk, its health."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from gateway.admission.open_calls import OpenCalls
from gateway.context import Gateway
from nodepool.metrics import catalogue
from nodepool.metrics.catalogue import SampledMetric, Samples
from nodepool.metrics.disks import disk_samples
from nodepool.metrics.sampling import Sampler, Source

_OFTEN_SECONDS = 5.0
_NOTHING: tuple[str, ...] = ()


def sampler(gateway: Gateway, calls: OpenCalls) -> Sampler:
    return Sampler(
        [
            Source("gateway", partial(_gateway, gateway, calls)),
            Source("disk", partial(disk_samples, gateway.settings.watched_folders), _OFTEN_SECONDS),
        ]
    )


def _gateway(gateway: Gateway, calls: OpenCalls) -> Mapping[SampledMetric, Samples]:
    """In memory, and read beside the event loop's thread: one call more or less does not matter."""
    health = gateway.health
    return {
        catalogue.calls_open: {_NOTHING: calls.count("all")},
        catalogue.message_memory: {_NOTHING: gateway.memory.held_bytes},
        catalogue.message_memory_limit: {_NOTHING: gateway.memory.total_bytes},
        catalogue.lane_waiting: {
            ("cheap",): gateway.cheap.waiting,
            ("lists",): gateway.lists.waiting,
            ("passwords",): gateway.passwords.waiting,
            ("heavy",): gateway.heavy.waiting,
        },
        catalogue.healthy: {(part,): float(not problem) for part, problem in health.problems().items()},
        catalogue.sweep_age: {_NOTHING: health.sweep_age_seconds()},
    }
