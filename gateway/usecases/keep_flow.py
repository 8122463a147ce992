"""A flow on its way into SQL: put in by pieces, seen by nobody before the last transaction accepts it.

What speaks against it was asked before. A gateway that ends in between leaves tasks that nobody sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from gateway.usecases import job_acceptance
from gateway.usecases.array_price import ArrayPrice
from gateway.usecases.incoming_package import PackageToKeep
from nodepool.domain.tasks.dependencies import Need, Unit
from nodepool.events.catalogue import JobAccepted
from nodepool.stores.sql import dependencies, job_intake, job_steps, storage_accounting
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.job_intake import Begin, Naming
from nodepool.stores.sql.job_rows import StoredStep
from nodepool.stores.sql.noted_events import note


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedFlow:
    job_id: str
    tasks: int
    most: int  # that all of it can cost
    repeated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowPart:
    """One step on its way into SQL."""

    stored: StoredStep
    package: PackageToKeep = field(repr=False)
    row: dict[str, Any]  # the columns that all its tasks have
    needs: Sequence[Need]
    naming: Naming
    price: ArrayPrice


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedFlow:
    """`other_steps` have no tasks: those that succeeded in the flow that this one does again."""

    owner: CallerIdentity
    parts: Sequence[FlowPart]
    job: dict[str, Any]
    stored_bound: int
    other_steps: Sequence[StoredStep] = ()

    @property
    def most(self) -> int:
        return sum(part.price.most for part in self.parts)


async def keep(
    gateway: Gateway, prepared: PreparedFlow, pieces: Sequence[Sequence[str]], stack: ExitStack
) -> AcceptedFlow:
    """Goes on when whoever called is gone, and closes what is on the stack then."""
    files = stack.pop_all()
    return await job_acceptance.to_its_end(_keep(gateway, prepared, pieces), when_done=files.close)


async def _keep(gateway: Gateway, prepared: PreparedFlow, pieces: Sequence[Sequence[str]]) -> AcceptedFlow:
    job_id, tasks = prepared.job["id"], prepared.job["count"]
    await job_acceptance.drop_left_behind(gateway, job_id, prepared.owner.user_id)
    begun = await gateway.run(gateway.database.write, lambda c: _begin(c, prepared, gateway.clock()))
    if begun is Begin.REPEATED:
        return AcceptedFlow(job_id=job_id, tasks=tasks, most=prepared.most, repeated=True)
    try:
        for part, of_part in zip(prepared.parts, pieces, strict=True):
            await gateway.run(_put_in_first, gateway, prepared, part, of_part[0])
            for piece in of_part[1:]:
                await gateway.run(_put_in, gateway, prepared, part, piece)
        await gateway.run(_accept, gateway, prepared)
    except BaseException:
        job, packages = prepared.job, {part.package.sha256: None for part in prepared.parts}
        await job_acceptance.drop(gateway, job_id, job["holder"], job["owner_id"], packages)
        raise
    gateway.unfinished.accepted(prepared.owner.user_id, tasks)
    await gateway.run(_tell, gateway, prepared, pieces)
    return AcceptedFlow(job_id=job_id, tasks=tasks, most=prepared.most)


def _begin(connection: Connection, prepared: PreparedFlow, now: float) -> Begin:
    begun = job_intake.begin(connection, prepared.job, now)
    if begun is Begin.NEW:
        job_steps.add(connection, [*(part.stored for part in prepared.parts), *prepared.other_steps])
    return begun


def _put_in_first(gateway: Gateway, prepared: PreparedFlow, part: FlowPart, piece: str) -> None:
    """With its package: until its tasks are there, nobody removes that as one that no task needs."""

    def work(connection: Connection) -> None:
        # Before its tasks are there, which keep the package: it is counted once.
        as_task = {**part.row, "id": prepared.job["id"]}
        storage_accounting.add_package(connection, as_task, prepared.stored_bound)
        _put(connection, prepared, part, piece, gateway.clock())

    with gateway.files.using_package(part.row["package_sha256"]):
        part.package.store(gateway.files)
        gateway.database.write(work)


def _put_in(gateway: Gateway, prepared: PreparedFlow, part: FlowPart, piece: str) -> None:
    gateway.database.write(lambda c: _put(c, prepared, part, piece, gateway.clock()))


def _put(connection: Connection, prepared: PreparedFlow, part: FlowPart, piece: str, now: float) -> None:
    job = prepared.job
    job_intake.put_in(connection, job["id"], job["holder"], part.row, piece, now, part.naming)


def _accept(gateway: Gateway, prepared: PreparedFlow) -> None:
    job, row, now = prepared.job, prepared.parts[0].row, gateway.clock()

    def work(connection: Connection) -> None:
        job_intake.accept(connection, job["id"], job["holder"], now)
        for part in prepared.parts:
            if part.needs:
                dependencies.add(connection, Unit(job["id"], part.stored.number), part.needs)
        note(
            connection,
            JobAccepted(
                job=job["id"],
                owner_id=prepared.owner.user_id,
                user=prepared.owner.username,
                kind=job["kind"],
                tasks=job["count"],
                tier=row["tier"],
                region=row["region"],
                price_per_minute=max(part.price.price_per_minute for part in prepared.parts),
                max_minutes=max(part.price.max_minutes for part in prepared.parts),
                package_bytes=sum(
                    {part.package.sha256: part.package.size for part in prepared.parts}.values()
                ),
            ),
        )

    gateway.database.write(work)


def _tell(gateway: Gateway, prepared: PreparedFlow, pieces: Sequence[Sequence[str]]) -> None:
    """Of each step that may begin one task: a dispatcher that hears of one looks for the others."""
    for part, of_part in zip(prepared.parts, pieces, strict=True):
        if not part.needs:
            first = job_intake.first_named(part.naming, of_part[0])
            gateway.publisher.place_soon(first, part.row["tier"], part.row["region"])
