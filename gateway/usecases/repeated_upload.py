"""Whether an upload is one that was accepted before: the same again changes nothing, another is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.auth.tokens import CallerIdentity
from nodepool.domain.errors import AlreadyExistsError
from nodepool.domain.tasks.new_task import PricedTask
from nodepool.stores.sql.task_rows import WholeTask

# What must be the same for a repeated upload to be the same upload.
SAME_ON_REPEAT = (
    "package_sha256", "cpu_score", "memory_gb", "memory_mb", "gpu_score", "gpu_memory_gb", "gpu_name",
    "region", "image", "network", "max_minutes", "pinned_node", "priority", "min_trust", "location_mode",
    "retries", "retry_on", "backoff_seconds", "resubmit_of", "fresh",
    "replicas", "compare_outputs", "take_pending", "exclusive", "arguments", "environment", "secrets",
    "secrets_on_low_trust", "name", "labels", "after", "after_any", "notify",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Accepted:
    task_id: str
    repeated: bool
    stored_bytes: int = 0  # what its owner kept before
    stored_bytes_limit: int = 0
    max_minutes: int = 0
    retries: int = 0
    minutes_by_balance: bool = False  # it named none, and the balance covers no more


def repeated(existing: WholeTask, row: PricedTask, owner: CallerIdentity) -> Accepted:
    told: Mapping[str, object] = row
    same = (
        existing.owner_id == owner.user_id
        and not existing.deleted_at
        and all(getattr(existing, name) == told[name] for name in SAME_ON_REPEAT if name != "max_minutes")
        and _same_minutes(existing, row)
    )
    if not same:
        raise _taken(row["id"])
    return Accepted(
        row["id"],
        repeated=True,
        max_minutes=existing.max_minutes,
        minutes_by_balance=existing.minutes_by_balance,
        retries=existing.retries,
    )


def _same_minutes(existing: WholeTask, row: PricedTask) -> bool:
    """Of one that names none: what the balance covered then counts."""
    return existing.max_minutes == row["max_minutes"] or (
        row["minutes_by_balance"] and existing.minutes_by_balance
    )


def _taken(task_id: str) -> AlreadyExistsError:
    return AlreadyExistsError(f"there is another task {task_id!r} already; choose a new task_id")
