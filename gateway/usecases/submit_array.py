"""Accepting an array: one package, many tasks, whole or not at all, and idempotent by its id.

What is cheap to refuse is refused first. What its tasks are given is worked out in a bounded process, in
pieces. They go into SQL in short transactions, so that nobody waits for a hundred thousand rows, and the last
one accepts the job: before that nothing of it is there for anybody. A gateway that ends in between leaves
tasks that nobody sees; the next try with this id, or the sweep, drops them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from gateway.usecases import (
    job_acceptance,
    notify_targets,
    owner_limits,
    package_check,
    storage_quota,
    submit_task,
    task_order,
    user_secrets,
)
from gateway.usecases.array_price import ArrayPrice, price_of_array
from gateway.usecases.incoming_package import IncomingPackage, PackageToKeep
from gateway.usecases.kept_package import KeptPackage
from nodepool.domain.capabilities import needed
from nodepool.domain.errors import NodePoolError, UnavailableError
from nodepool.domain.tasks.arrays import ArrayInputs
from nodepool.domain.tasks.dependencies import WHOLE_JOB, Need, Unit
from nodepool.domain.tasks.new_task import PricedTask, RequestedTask
from nodepool.domain.tasks.states import JobKind, TaskState
from nodepool.domain.trust.tiers import task_tier
from nodepool.events.catalogue import JobAccepted
from nodepool.stores.sql import dependencies, job_intake, jobs as job_store, storage_accounting
from nodepool.stores.sql.account_facts import AccountFacts, account_facts
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.job_intake import Begin
from nodepool.stores.sql.job_rows import StoredJob
from nodepool.stores.sql.noted_events import note
from nodepool.workflows import unaccepted_jobs

_APART_SECONDS = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayRequest:
    """An array with all its items. `columns` are those that its tasks have in common."""

    job_id: str
    columns: RequestedTask
    inputs: ArrayInputs
    tasks: int
    max_cpt: int
    items: bytes
    spec_digest: bytes  # of what the client sent beside items and package
    array_count: int = 0  # that its runs are told as the number of tasks; 0: so many as there are
    resubmit_of: str = ""  # the job that it does again

    def digest(self, package_sha256: str) -> str:
        return digest_of(self.spec_digest, self.items, package_sha256)


def digest_of(spec_digest: bytes, items: bytes, package_sha256: str) -> str:
    whole = hashlib.sha256(spec_digest)
    whole.update(hashlib.sha256(items).digest())
    whole.update(package_sha256.encode())
    return whole.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedArray:
    job_id: str
    tasks: int
    price: ArrayPrice
    repeated: bool = False
    retries: int = 0  # of each


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptableArray:
    """That nothing speaks against so far. `columns` are those that its tasks have in common."""

    score: int  # its owner's credit
    stored_bytes: int  # that its owner keeps
    price: ArrayPrice
    columns: PricedTask
    needs: Sequence[Need]  # what is still to come of what it comes after


@dataclass(frozen=True, slots=True, kw_only=True)
class _PreparedArray:
    owner: CallerIdentity
    request: ArrayRequest
    row: dict[str, Any]  # the columns that all its tasks have
    job: dict[str, Any]
    needs: Sequence[Need]  # what is still to come of what it comes after
    price: ArrayPrice
    stored_bound: int


async def submit(
    gateway: Gateway, owner: CallerIdentity, request: ArrayRequest, package: IncomingPackage
) -> AcceptedArray:
    """Raises what a single task raises, and InvalidInputError for items that are no array."""
    submit_task.check_size(gateway, package.size)
    prepared = await gateway.run(_prepare, gateway, owner, request, package)
    if isinstance(prepared, AcceptedArray):
        return prepared
    if not await gateway.run(package_check.is_fine, gateway, package):
        await package_check.look_into(gateway, owner, package)
    pieces = await job_acceptance.expanded(gateway, owner.user_id, request.items, request.inputs)
    return await _kept(gateway, prepared, package, pieces)


async def submit_kept(
    gateway: Gateway,
    owner: CallerIdentity,
    request: ArrayRequest,
    package: KeptPackage,
    pieces: Sequence[str],
) -> AcceptedArray:
    """One whose package is here already. `pieces` may be read as they are come to, in a thread."""
    prepared = await gateway.run(_prepare, gateway, owner, request, package)
    if isinstance(prepared, AcceptedArray):
        return prepared
    return await _kept(gateway, prepared, package, pieces)


async def _kept(
    gateway: Gateway, prepared: _PreparedArray, package: PackageToKeep, pieces: Sequence[str]
) -> AcceptedArray:
    return await job_acceptance.to_its_end(_keep(gateway, prepared, package, pieces))


# -- what can be refused ------------------------------------------------------------------------------
def _prepare(
    gateway: Gateway, owner: CallerIdentity, request: ArrayRequest, package: PackageToKeep
) -> AcceptedArray | _PreparedArray:
    now, sha256 = gateway.clock(), package.sha256
    digest = request.digest(sha256)
    known = gateway.database.read(lambda c: job_intake.find_any(c, request.job_id))
    if known is not None and known.accepted_at is not None:
        job_intake.check_same(known, owner.user_id, digest)
        return repeated(gateway, known)
    found = check_early(
        gateway,
        owner,
        request.columns,
        tasks=request.tasks,
        max_cpt=request.max_cpt,
        size=package.size,
        sha256=sha256,
    )
    columns = found.columns
    return _PreparedArray(
        owner=owner,
        request=request,
        row=_row(gateway, columns, found.needs, task_tier(found.score), now),
        job={
            "id": request.job_id,
            "owner_id": owner.user_id,
            "kind": JobKind.ARRAY,
            "name": columns["name"],
            "labels": columns["labels"],
            "count": request.tasks,
            "array_count": request.array_count,
            "notify": columns["notify"],
            "resubmit_of": request.resubmit_of,
            "digest": digest,
            "max_cpt": request.max_cpt,
            "holder": unaccepted_jobs.new_holder(),
        },
        needs=found.needs,
        price=found.price,
        stored_bound=storage_quota.bound(gateway, found.score),
    )


def check_early(
    gateway: Gateway,
    owner: CallerIdentity,
    columns: RequestedTask,
    *,
    tasks: int,
    max_cpt: int,
    size: int,
    sha256: str,
) -> AcceptableArray:
    """What can be refused of a new array without its package and items. Keeps nothing."""
    needs, account = gateway.database.read(lambda c: _before(c, owner, columns))
    price = price_of_array(columns, tasks, account.balance, max_cpt)
    priced: PricedTask = {
        **columns,
        "max_minutes": price.max_minutes,
        "minutes_by_balance": price.minutes_by_balance,
        "owner_id": owner.user_id,
        "price_per_minute": price.price_per_minute,
        "package_sha256": sha256,
        "package_bytes": size,
    }
    score = account.credit_score
    owner_limits.check_access(priced, score)
    owner_limits.check_room(gateway, owner, score, more=tasks)
    storage_quota.check_room(gateway, owner, score, account.stored_bytes, priced)
    package_check.check_not_refused(gateway, sha256)
    return AcceptableArray(
        score=score, stored_bytes=account.stored_bytes, price=price, columns=priced, needs=needs
    )


def _before(
    connection: Connection, owner: CallerIdentity, columns: RequestedTask
) -> tuple[Sequence[Need], AccountFacts]:
    """Raises what is raised for secrets that there are not, and for what it cannot come after."""
    needs = task_order.unmet(connection, columns, owner.user_id)
    user_secrets.check_wanted(connection, owner.user_id, columns["secrets"])
    notify_targets.check_wanted(connection, owner.user_id, columns["notify"])
    return needs, account_facts(connection, owner.user_id)


def _row(
    gateway: Gateway, columns: PricedTask, needs: Sequence[Need], tier: str, now: float
) -> dict[str, Any]:
    # Of what it comes after all of its tasks have the reason, and the job itself the rest; it is the job's
    # end that is told.
    own = {"id", "arguments", "environment", "after", "after_any", "notify"}
    return {
        **{name: value for name, value in columns.items() if name not in own},
        # Its index and the number of tasks go into the environment of each.
        "capabilities": needed(has_inputs=True, has_secrets=bool(columns["secrets"])),
        "holds_when_placed": True,
        "fee_percent": gateway.settings.platform_fee_percent,
        "state": TaskState.QUEUED,
        "reason": "",
        **task_order.waiting(needs),
        "tier": tier,
        "created_at": now,
        "updated_at": now,
        "hinted_at": now,
        "queued_at": now,
    }


def repeated(gateway: Gateway, job: StoredJob) -> AcceptedArray:
    """This very job was accepted before."""
    task = gateway.database.read(lambda c: job_store.first_task(c, job.id))
    price = ArrayPrice(
        price_per_minute=task.price_per_minute if task else 0,
        max_minutes=task.max_minutes if task else 0,
        minutes_by_balance=task.minutes_by_balance if task else False,
        tasks=job.count,
        tries=task.retries + 1 if task else 1,
    )
    return AcceptedArray(
        job_id=job.id,
        tasks=job.count,
        price=price,
        repeated=True,
        retries=task.retries if task else 0,
    )


# -- what is kept --------------------------------------------------------------------------------------
async def _keep(
    gateway: Gateway, prepared: _PreparedArray, package: PackageToKeep, pieces: Sequence[str]
) -> AcceptedArray:
    job_id, holder = prepared.request.job_id, prepared.job["holder"]
    await job_acceptance.drop_left_behind(gateway, job_id, prepared.owner.user_id)
    begun = await gateway.run(_begin, gateway, prepared, package, pieces)
    if begun is Begin.REPEATED:
        known = await gateway.run(gateway.database.read, lambda c: job_intake.find_any(c, job_id))
        if known is None:
            raise UnavailableError("the job changed at the same moment; try again")
        return await gateway.run(repeated, gateway, known)
    try:
        for number in range(1, len(pieces)):
            await gateway.run(_put_in, gateway, prepared, pieces, number)
        await gateway.run(_accept, gateway, prepared)
    except BaseException:
        await job_acceptance.drop(
            gateway, job_id, holder, prepared.owner.user_id, [prepared.row["package_sha256"]]
        )
        raise
    await gateway.run(_told, gateway, prepared, pieces)
    return AcceptedArray(
        job_id=job_id,
        tasks=prepared.request.tasks,
        price=prepared.price,
        retries=prepared.row["retries"],
    )


def _begin(
    gateway: Gateway, prepared: _PreparedArray, package: PackageToKeep, pieces: Sequence[str]
) -> Begin:
    sha256, now, piece = prepared.row["package_sha256"], gateway.clock(), pieces[0]

    def work(connection: Connection) -> Begin:
        begun = job_intake.begin(connection, prepared.job, now)
        if begun is Begin.NEW:
            # Before its tasks are there, which keep the package: it is counted once.
            as_task = {**prepared.row, "id": prepared.request.job_id}
            storage_accounting.add_package(connection, as_task, prepared.stored_bound)
            job_intake.put_in(
                connection, prepared.job["id"], prepared.job["holder"], prepared.row, piece, now
            )
        return begun

    try:
        with gateway.files.using_package(sha256):
            package.store(gateway.files)
            return gateway.database.write(work)
    except NodePoolError:
        storage_quota.discard(gateway, sha256)
        raise


def _put_in(gateway: Gateway, prepared: _PreparedArray, pieces: Sequence[str], number: int) -> None:
    """Each piece is a moment younger, so that lists need not put a hundred thousand of one age in order."""
    job, now, piece = prepared.job, gateway.clock(), pieces[number]
    row = {**prepared.row, "created_at": prepared.row["created_at"] + number * _APART_SECONDS}
    gateway.database.write(lambda c: job_intake.put_in(c, job["id"], job["holder"], row, piece, now))


def _accept(gateway: Gateway, prepared: _PreparedArray) -> None:
    job, row, now = prepared.job, prepared.row, gateway.clock()

    def work(connection: Connection) -> None:
        job_intake.accept(connection, job["id"], job["holder"], now)
        if prepared.needs:
            dependencies.add(connection, Unit(job["id"], WHOLE_JOB), prepared.needs)
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
                price_per_minute=row["price_per_minute"],
                max_minutes=row["max_minutes"],
                package_bytes=row["package_bytes"],
            ),
        )

    gateway.database.write(work)


def _told(gateway: Gateway, prepared: _PreparedArray, pieces: Sequence[str]) -> None:
    """One hint for all: a dispatcher that hears of one task looks for the others."""
    row = prepared.row
    gateway.unfinished.accepted(prepared.owner.user_id, prepared.request.tasks)
    if prepared.needs:
        return  # what it waits for has ended meanwhile, or will: the one who ends it, or the sweep, tells
    first = job_intake.first_id(prepared.request.job_id, pieces[0])
    gateway.publisher.place_soon(first, row["tier"], row["region"])
