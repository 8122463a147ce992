"""Accepting a job of many tasks, in many short transactions: what arrays and flows have in common of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from gateway.context import Gateway
from gateway.usecases import storage_quota
from nodepool.domain.errors import InvalidInputError, NodePoolError
from nodepool.domain.tasks.arrays import ArrayInputs
from nodepool.heavy import jobs
from nodepool.heavy.worker import OutOfBoundsError
from nodepool.stores.sql import job_intake
from nodepool.workflows import unaccepted_jobs

log = logging.getLogger(__name__)
T = TypeVar("T")
_going_on: set[asyncio.Future[Any]] = set()


async def expanded(gateway: Gateway, owner_id: int, items: bytes, inputs: ArrayInputs) -> list[str]:
    """What is stored of each task, in pieces (see arrays.expand). Raises InvalidInputError."""
    try:
        with gateway.memory.hold(owner_id, len(items)):
            pieces: list[str] = await gateway.run_heavy(owner_id, jobs.expand, items, inputs)
    except OutOfBoundsError as error:
        raise InvalidInputError(f"the array cannot be read: {error}; send fewer tasks at once") from None
    return pieces


async def to_its_end(accepting: Awaitable[T], when_done: Callable[[], object] | None = None) -> T:
    """It goes on when its client is gone: the next try finds it done. `when_done` is called in any case."""
    going = asyncio.ensure_future(accepting)
    _going_on.add(going)
    going.add_done_callback(_going_on.discard)
    if when_done is not None:
        going.add_done_callback(lambda _: when_done())
    return await asyncio.shield(going)


async def drop_left_behind(gateway: Gateway, job_id: str, owner_id: int) -> None:
    """What an earlier try left, that nobody goes on with."""
    now = gateway.clock()
    if not await gateway.run(
        gateway.database.read, lambda c: job_intake.left_behind(c, job_id, owner_id, now)
    ):
        return
    holder = await gateway.run(unaccepted_jobs.take_over, gateway.database, gateway.clock, job_id)
    if holder:
        await drop(gateway, job_id, holder, owner_id)


async def drop(
    gateway: Gateway, job_id: str, holder: str, owner_id: int, packages: Iterable[str] = ()
) -> None:
    """What there is of the job, and those of its packages (SHA-256) that no task needs."""
    try:
        database, clock = gateway.database, gateway.clock
        while await gateway.run(unaccepted_jobs.drop_some, database, clock, job_id, holder, owner_id):
            pass
        for sha256 in packages:
            await gateway.run(storage_quota.discard, gateway, sha256)
    except (NodePoolError, asyncio.CancelledError) as error:
        log.warning("what there is of job %s is dropped by the sweep: %s", job_id, error)
