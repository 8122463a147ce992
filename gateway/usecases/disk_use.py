"""What the pool keeps for whom, and what would go now: for operators. Nothing is changed here."""

from __future__ import annotations

import shutil
from contextlib import suppress
from math import isfinite

from gateway.context import Gateway
from gateway.messages import page_size
from gateway.usecases import storage_quota
from nodepool.domain.errors import InvalidInputError, UnavailableError
from nodepool.domain.tasks.retention import Retention
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.files.disk import disk_errors
from nodepool.stores.redis.broker_status import broker_status
from nodepool.stores.sql import disk_use
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.disk_use import StorageOfUser, Things

_USERS, _MOST_USERS = 50, 1000


def of_pool(gateway: Gateway, request: pb.GetDiskUseRequest) -> pb.GetDiskUseResponse:
    users = page_size(request.users, default=_USERS, most=_MOST_USERS)
    retention = _asked(gateway, request)
    now = gateway.clock()
    with disk_errors():
        disk = shutil.disk_usage(gateway.settings.task_storage_path)

    def work(connection: Connection) -> pb.GetDiskUseResponse:
        size, reusable = disk_use.database_bytes(connection)
        gone = disk_use.would_go(
            connection,
            results=retention.results_before(now),
            outputs=retention.outputs_before(now),
            whole=retention.tasks_before(now),
        )
        return pb.GetDiskUseResponse(
            result_days=retention.result_days,
            log_days=retention.log_days,
            task_days=retention.task_days,
            kept=[_told(it) for it in disk_use.kept(connection)],
            would_go=[_told(it) for it in gone],
            users=[_user(gateway, it) for it in disk_use.by_user(connection, users)],
            storage_free_bytes=disk.free,
            storage_total_bytes=disk.total,
            database_bytes=size,
            database_reusable_bytes=reusable,
        )

    answer = gateway.database.read(work)
    with suppress(UnavailableError):  # the rest is worth telling without it
        broker = broker_status(gateway.redis)
        answer.broker_bytes, answer.broker_limit_bytes = broker.memory_used_bytes, broker.memory_limit_bytes
    return answer


def _told(things: Things) -> pb.KeptThings:
    return pb.KeptThings(kind=things.kind, count=things.count, bytes=things.bytes)


def _user(gateway: Gateway, found: StorageOfUser) -> pb.UserStorage:
    return pb.UserStorage(
        username=found.username,
        stored_bytes=found.stored_bytes,
        stored_bytes_limit=storage_quota.bound(gateway, found.credit_score),
        tasks=found.tasks,
    )


def _asked(gateway: Gateway, request: pb.GetDiskUseRequest) -> Retention:
    """The pool's own, but for what the request names."""
    named = {
        field.name: float(value) for field, value in request.ListFields() if field.name.endswith("_days")
    }
    for name in ("result_days", "log_days", "task_days"):
        asked = named.get(name, 0.0)
        if not isfinite(asked) or asked < 0:
            raise InvalidInputError(f"{name} must be 0 (for ever) or a number of days, not {asked}")
    settings = gateway.settings
    return Retention(
        named.get("result_days", settings.result_days),
        named.get("log_days", settings.log_days),
        named.get("task_days", settings.task_days),
    )
