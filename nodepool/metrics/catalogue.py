"""Every metric of the pool, declared once: docs/metrics.md is made of this, and a scrape shows nothing else.

What happens is counted where it happens, in memory, which costs nothing worth speaking of. What *is*
(tasks, nodes, the broker) is sampled when somebody scrapes (`sampling`). A label's values come from a set
that the pool knows, never from what a stranger sent: `bounded` makes anything else `other`.
Names and units are Prometheus's conventions. Knows no store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

OTHER = "other"
_QUICK = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LONG = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 21600, 86400)


class Part(StrEnum):
    """Whose /metrics shows it."""

    GATEWAY = "gateway"
    DISPATCHER = "dispatcher"


BOTH = (Part.GATEWAY, Part.DISPATCHER)
GATEWAY = (Part.GATEWAY,)
DISPATCHER = (Part.DISPATCHER,)


class MetricKind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


Samples = Mapping[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class SampledMetric:
    """One whose values are read when they are asked for. Samples are by the values of its labels."""

    name: str
    words: str
    labels: tuple[str, ...]
    kind: MetricKind

    def family(self, samples: Samples) -> Metric:
        make = CounterMetricFamily if self.kind is MetricKind.COUNTER else GaugeMetricFamily
        family = make(self.name, self.words, labels=self.labels)
        for values, value in samples.items():
            family.add_metric(values, value)
        return family


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One line of the catalogue. `collector` of what is counted where it happens."""

    name: str
    kind: MetricKind
    labels: tuple[str, ...]
    words: str
    parts: tuple[Part, ...]
    collector: Collector | None


_entries: list[CatalogueEntry] = []


def entries() -> Sequence[CatalogueEntry]:
    return tuple(_entries)


def bounded(value: str, known: Iterable[str]) -> str:
    """The value, where it is one that the pool knows."""
    return value if value in known else OTHER


def _counter(name: str, words: str, labels: tuple[str, ...], parts: tuple[Part, ...]) -> Counter:
    counter = Counter(name, words, labels, registry=None)
    _entries.append(CatalogueEntry(name, MetricKind.COUNTER, labels, words, parts, counter))
    return counter


def _gauge(name: str, words: str, labels: tuple[str, ...], parts: tuple[Part, ...]) -> Gauge:
    gauge = Gauge(name, words, labels, registry=None)
    _entries.append(CatalogueEntry(name, MetricKind.GAUGE, labels, words, parts, gauge))
    return gauge


def _histogram(
    name: str,
    words: str,
    labels: tuple[str, ...],
    parts: tuple[Part, ...],
    buckets: Sequence[float],
) -> Histogram:
    histogram = Histogram(name, words, labels, buckets=buckets, registry=None)
    _entries.append(CatalogueEntry(name, MetricKind.HISTOGRAM, labels, words, parts, histogram))
    return histogram


def _sampled(
    name: str,
    words: str,
    labels: tuple[str, ...] = (),
    parts: tuple[Part, ...] = DISPATCHER,
    kind: MetricKind = MetricKind.GAUGE,
) -> SampledMetric:
    _entries.append(CatalogueEntry(name, kind, labels, words, parts, None))
    return SampledMetric(name, words, labels, kind)


# -- every part --------------------------------------------------------------------------------------
build_info = _gauge("hivemind_build_info", "1; the version of the program.", ("part", "version"), BOTH)
attempts_ended = _counter(
    "hivemind_attempts_ended_total",
    "Attempts that ended, as this process told SQL: how, and whose doing the reason is.",
    ("outcome", "reason_class"),
    BOTH,
)
tasks_ended = _counter(
    "hivemind_tasks_ended_total", "Users' tasks that came to a final state.", ("state",), BOTH
)
sample_age = _sampled(
    "hivemind_sample_age_seconds",
    "How long ago what is sampled was read, by source; it grows while a source does not answer.",
    ("source",),
    BOTH,
)
sample_seconds = _sampled(
    "hivemind_sample_seconds", "How long reading a source took the last time.", ("source",), BOTH
)
sample_failures = _sampled(
    "hivemind_sample_failures_total",
    "Times that a source could not be read.",
    ("source",),
    BOTH,
    MetricKind.COUNTER,
)
disk_free = _sampled(
    "hivemind_disk_free_bytes",
    "Free disk, of the folder of files and of SQLite's database.",
    ("folder",),
    BOTH,
)
disk_size = _sampled("hivemind_disk_size_bytes", "Size of the same disks.", ("folder",), BOTH)

# -- the gateway -------------------------------------------------------------------------------------
rpc_seconds = _histogram(
    "hivemind_gateway_rpc_seconds",
    "Time from a call's arrival to its end, by method.",
    ("method",),
    GATEWAY,
    _QUICK[1:],
)
rpcs = _counter(
    "hivemind_gateway_rpcs_total", "Calls that ended, by method and gRPC code.", ("method", "code"), GATEWAY
)
logins = _counter(
    "hivemind_gateway_logins_total",
    "Logins by how they ended: accepted, refused (a wrong password, a blocked account), limited.",
    ("outcome",),
    GATEWAY,
)
limits_hit = _counter(
    "hivemind_limits_hit_total",
    "Calls refused and connections ended because somebody has as much as one may have, by limit.",
    ("limit",),
    GATEWAY,
)
tasks_accepted = _counter(
    "hivemind_tasks_accepted_total", "Tasks that were taken in, without repeats.", ("tier",), GATEWAY
)
healthy = _sampled(
    "hivemind_healthy",
    "1 where the gateway finds that the part does its work: database and broker can be written, a dispatcher "
    "sweeps.",
    ("part",),
    GATEWAY,
)
sweep_age = _sampled(
    "hivemind_sweep_age_seconds",
    "Since a dispatcher ended a pass of its sweep; at a gateway that has seen none, since it began.",
    (),
    BOTH,
)
calls_open = _sampled("hivemind_gateway_calls_open", "Calls that are open now.", (), GATEWAY)
message_memory = _sampled(
    "hivemind_gateway_message_memory_bytes", "Memory that messages of all calls take now.", (), GATEWAY
)
message_memory_limit = _sampled(
    "hivemind_gateway_message_memory_limit_bytes", "GRPC_MEMORY_MB, in bytes.", (), GATEWAY
)
proxy_refusals = _counter(
    "hivemind_gateway_proxy_refusals_total",
    "Connections to PROXY_PROTOCOL_PORT that were refused: untrusted (not of TRUSTED_PROXIES), header (it "
    "begins with none), late (none came), full.",
    ("cause",),
    GATEWAY,
)
lane_waiting = _sampled(
    "hivemind_gateway_lane_waiting", "Pieces of work that wait for their turn, by lane.", ("lane",), GATEWAY
)

# -- the dispatcher ----------------------------------------------------------------------------------
placements = _counter("hivemind_placements_total", "Attempts placed on a node.", ("tier",), DISPATCHER)
placement_misses = _counter(
    "hivemind_placement_misses_total",
    "Plans that came to nothing: no_room (the picture of the node was old), moved (the task did not wait "
    "any more) or no_money (the CPT for it went elsewhere).",
    ("cause",),
    DISPATCHER,
)
placement_seconds = _histogram(
    "hivemind_placement_seconds",
    "Time that a round of placements took, from its plan to the hints.",
    (),
    DISPATCHER,
    _QUICK,
)
task_wait_seconds = _histogram(
    "hivemind_task_wait_seconds",
    "How long a task had waited when it was placed.",
    ("tier",),
    DISPATCHER,
    _LONG,
)
sweeps = _counter(
    "hivemind_sweeps_total",
    "Turns of the sweep: done, failed, or left to another dispatcher.",
    ("outcome",),
    DISPATCHER,
)
sweep_seconds = _histogram(
    "hivemind_sweep_seconds", "Time that one pass of the sweep took.", (), DISPATCHER, _QUICK[3:]
)
wait_queue_tasks = _sampled("hivemind_wait_queue_tasks", "Tasks in this dispatcher's wait queue.")
tasks = _sampled("hivemind_tasks", "Tasks by state, with the runs of replicated ones.", ("state",))
tasks_waiting = _sampled(
    "hivemind_tasks_waiting",
    "Tasks that wait for a node, by what they wait for.",
    ("tier", "region", "cause"),
)
oldest_wait = _sampled(
    "hivemind_oldest_wait_seconds",
    "How long the one that waits longest has waited, by what it waits for.",
    ("tier", "region", "cause"),
)
nodes = _sampled(
    "hivemind_nodes",
    "Nodes that have joined: online, draining (online, and takes no new work) or offline, by tier.",
    ("state", "tier"),
)
cpu_capacity = _sampled("hivemind_cpu_score_capacity", "CPU of the nodes online, in points, with overcommit.")
cpu_reserved = _sampled("hivemind_cpu_score_reserved", "What of it is reserved.")
memory_capacity = _sampled("hivemind_memory_capacity_bytes", "Memory of the nodes online, with overcommit.")
memory_reserved = _sampled("hivemind_memory_reserved_bytes", "What of it is reserved.")
gpu_capacity = _sampled(
    "hivemind_gpu_score_capacity", "GPUs of the nodes online, in points, with overcommit."
)
gpu_reserved = _sampled("hivemind_gpu_score_reserved", "What of it is reserved.")
gpu_memory_capacity = _sampled("hivemind_gpu_memory_capacity_bytes", "GPU memory of the nodes online.")
gpu_memory_reserved = _sampled("hivemind_gpu_memory_reserved_bytes", "What of it is reserved.")
slots_capacity = _sampled("hivemind_task_slots_capacity", "Tasks that the nodes online may run at once.")
slots_reserved = _sampled("hivemind_task_slots_reserved", "Reservations: attempts on nodes online.")
broker_memory = _sampled("hivemind_broker_memory_used_bytes", "Memory that the broker uses.")
broker_memory_limit = _sampled("hivemind_broker_memory_limit_bytes", "Its maxmemory; 0: it has none.")
broker_clients = _sampled("hivemind_broker_clients", "Connections to the broker.")
broker_clients_limit = _sampled("hivemind_broker_clients_limit", "Its maxclients.")
broker_evicted = _sampled(
    "hivemind_broker_evicted_keys_total",
    "Keys that the broker threw away for want of memory; any is one too many.",
    kind=MetricKind.COUNTER,
)
broker_rejected = _sampled(
    "hivemind_broker_rejected_connections_total",
    "Connections that the broker refused over maxclients.",
    kind=MetricKind.COUNTER,
)
ledger_verified_at = _sampled(
    "hivemind_ledger_verified_timestamp_seconds",
    "When `hivemind ledger verify` last came to its end, Unix time; absent: never.",
)
ledger_right = _sampled("hivemind_ledger_right", "1 where it found the ledger right, else 0.")
ledger_verified_entries = _sampled("hivemind_ledger_verified_entries", "How many entries it looked at.")

notifications = _counter(
    "hivemind_notifications_total",
    "Notifications by what became of a try: sent, retried (later again), failed (given up), dropped.",
    ("method", "outcome"),
    DISPATCHER,
)
notifications_waiting = _sampled(
    "hivemind_notifications_waiting", "Notifications to be sent, or to be tried again."
)

# -- the dispatcher's Celery, under the names of celery-exporter -------------------------------------
_CELERY = ("name", "hostname", "queue_name")
celery_queue_length = _sampled(
    "celery_queue_length", "Messages in the queues that dispatchers take from.", ("queue_name",)
)
celery_active_consumer_count = _sampled(
    "celery_active_consumer_count", "Consumers of the queue in this worker: 1.", ("queue_name",)
)
celery_active_worker_count = _sampled(
    "celery_active_worker_count", "Workers of the queue, this one: 1.", ("queue_name",)
)
celery_active_process_count = _sampled(
    "celery_active_process_count", "Threads of this worker that serve the queue.", ("queue_name",)
)
celery_worker_up = _sampled("celery_worker_up", "1: this worker runs.", ("hostname",))
celery_worker_tasks_active = _gauge(
    "celery_worker_tasks_active", "Messages that this worker works at now.", ("hostname",), DISPATCHER
)
celery_task_received = _counter(
    "celery_task_received_total", "Messages that the worker has received.", _CELERY, DISPATCHER
)
celery_task_started = _counter(
    "celery_task_started_total", "Messages that it has begun with.", _CELERY, DISPATCHER
)
celery_task_succeeded = _counter("celery_task_succeeded_total", "Of these done.", _CELERY, DISPATCHER)
celery_task_failed = _counter(
    "celery_task_failed_total", "Of these failed, by exception.", (*_CELERY, "exception"), DISPATCHER
)
celery_task_rejected = _counter(
    "celery_task_rejected_total",
    "Messages that were none of the pool's, or could not be read.",
    _CELERY,
    DISPATCHER,
)
celery_task_runtime = _histogram(
    "celery_task_runtime", "Seconds that a message took.", _CELERY, DISPATCHER, _QUICK
)
