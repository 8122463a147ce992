"""A task that is not stored yet, as it grows: what its owner asks for, what it costs, and its row. Pure.

The names are those of the table of tasks. They are dicts, because that is what an insert takes.
"""

from __future__ import annotations

from typing import TypedDict

from nodepool.domain.tasks.states import LocationMode, TaskState


class RequestedComparison(TypedDict):
    """What an owner asks for where results are compared."""

    replicas: int
    compare_outputs: str  # one pattern a line
    take_pending: bool
    verification: str


class TaskInputs(TypedDict):
    """What its entry script is given, and what people call it."""

    arguments: str  # JSON, as the next two
    environment: str
    secrets: str  # their names, by the variables
    secrets_on_low_trust: bool
    capabilities: str  # that its node's agent must have
    name: str
    labels: str  # JSON


class RequestedRetries(TypedDict):
    """What becomes of it where its own program fails."""

    retries: int
    retry_on: str  # exit codes, with blanks between; empty: all
    backoff_seconds: int


class RequestedOrder(TypedDict):
    """What it comes after, one id a line: the success of these, and any end of those."""

    after: str
    after_any: str


class RequestedTask(RequestedComparison, RequestedRetries, RequestedOrder, TaskInputs):
    """What the request decides."""

    id: str
    cpu_score: int
    memory_gb: int
    memory_mb: int  # what memory_gb is rounded up from; 0: memory_gb says it
    gpu_score: int
    gpu_memory_gb: int
    gpu_name: str
    region: str
    image: str
    network: bool
    max_minutes: int
    minutes_by_balance: bool  # its owner names none; of a row: it has as many as the balance covered
    pinned_node: str
    priority: int
    min_trust: str
    location_mode: LocationMode
    exclusive: bool
    fresh: bool  # in a sandbox that runs nothing before and nothing after it
    resubmit_of: str  # the task or job that it does again; empty: none
    notify: str  # targets that are told of its end, one a line


class PricedTask(RequestedTask):
    """With its owner and its package, which say what it costs and how much of it is kept."""

    owner_id: int
    price_per_minute: int
    package_sha256: str
    package_bytes: int


class NewTask(PricedTask):
    """The whole row."""

    state: TaskState
    reason: str
    tier: str  # one of Tier
    created_at: float
    updated_at: float
    hinted_at: float
    queued_at: float
