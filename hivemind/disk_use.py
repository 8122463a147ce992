"""What a pool keeps for whom, and what would go, as its operator is shown it. Bytes and days."""

from __future__ import annotations

from dataclasses import dataclass

from hivemind.channel import GatewayChannel
from hivemind.made import made
from hivemind.models import finite
from nodepool.protocol import nodepool_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptThings:
    """Of one kind: packages, results, outputs, tasks, ...; rows have no bytes of their own."""

    kind: str
    count: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UserStorage:
    username: str
    stored_bytes: int
    stored_bytes_limit: int
    tasks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskUse:
    """`would_go` with these days; 0 is for ever. `database_reusable_bytes` are written again before the
    database grows."""

    result_days: float
    log_days: float
    task_days: float
    kept: tuple[KeptThings, ...]
    would_go: tuple[KeptThings, ...]
    users: tuple[UserStorage, ...]
    storage_free_bytes: int
    storage_total_bytes: int
    database_bytes: int
    database_reusable_bytes: int
    broker_bytes: int
    broker_limit_bytes: int  # 0: none


def disk_use(
    gateway: GatewayChannel,
    *,
    result_days: float | None = None,
    log_days: float | None = None,
    task_days: float | None = None,
    users: int = 0,
) -> DiskUse:
    """None: as the pool is set."""
    days = {"result_days": result_days, "log_days": log_days, "task_days": task_days}
    said = {name: value for name, value in days.items() if value is not None}
    request = made(pb.GetDiskUseRequest, users=users, **said)
    answer = gateway.call(gateway.admin.GetDiskUse, request)
    return DiskUse(
        result_days=finite(answer.result_days),
        log_days=finite(answer.log_days),
        task_days=finite(answer.task_days),
        kept=tuple(_things(it) for it in answer.kept),
        would_go=tuple(_things(it) for it in answer.would_go),
        users=tuple(
            UserStorage(
                username=it.username,
                stored_bytes=it.stored_bytes,
                stored_bytes_limit=it.stored_bytes_limit,
                tasks=it.tasks,
            )
            for it in answer.users
        ),
        storage_free_bytes=answer.storage_free_bytes,
        storage_total_bytes=answer.storage_total_bytes,
        database_bytes=answer.database_bytes,
        database_reusable_bytes=answer.database_reusable_bytes,
        broker_bytes=answer.broker_bytes,
        broker_limit_bytes=answer.broker_limit_bytes,
    )


def _things(told: pb.KeptThings) -> KeptThings:
    return KeptThings(kind=told.kind, count=told.count, bytes=told.bytes)
