"""Accepting a task: everything is checked before anything is kept, and the hint goes out last."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from gateway.usecases import (
    notify_targets,
    owner_limits,
    package_check,
    storage_quota,
    task_order,
    user_secrets,
)
from gateway.usecases.fitting_minutes import fitting_minutes
from gateway.usecases.incoming_package import IncomingPackage, PackageToKeep
from gateway.usecases.kept_package import KeptPackage
from gateway.usecases.repeated_upload import Accepted, repeated
from gateway.usecases.task_order import order_of
from nodepool import wire
from nodepool.domain import ids, regions
from nodepool.domain.capabilities import needed
from nodepool.domain.errors import (
    AlreadyExistsError,
    InvalidInputError,
    NodePoolError,
    NotEnoughCptError,
    TooLargeError,
)
from nodepool.domain.ids import check_task_id
from nodepool.domain.money.pricing import price_per_minute_cpt
from nodepool.domain.notifications.targets import wanted_targets
from nodepool.domain.resources import Resources
from nodepool.domain.tasks.dependencies import Unit, to_lines
from nodepool.domain.tasks.labels import check_name
from nodepool.domain.tasks.new_task import (
    NewTask,
    PricedTask,
    RequestedComparison,
    RequestedTask,
    TaskInputs,
)
from nodepool.domain.tasks.run_inputs import arguments_to_json, mapping_to_json
from nodepool.domain.tasks.states import TaskState, Verification
from nodepool.domain.trust.result_digest import check_patterns
from nodepool.domain.trust.tiers import task_tier
from nodepool.events.catalogue import TaskAccepted
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql import (
    dependencies,
    nodes as node_store,
    replicas as replica_store,
    storage_accounting,
    task_labels as label_store,
    tasks as task_store,
)
from nodepool.stores.sql.account_facts import account_facts
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.noted_events import note
from nodepool.stores.sql.task_rows import WholeTask

log = logging.getLogger(__name__)

# How often one that names no minutes is fitted to a balance that changes meanwhile.
_FITS = 5


def check_size(gateway: Gateway, size: int) -> None:
    """Raises TooLargeError for a package over MAX_FILE_SIZE."""
    if size > gateway.settings.max_file_size:
        raise TooLargeError(
            f"the package has {size} bytes or more, over this pool's MAX_FILE_SIZE of "
            f"{gateway.settings.max_file_size} bytes; leave out what the task does not need"
        )


@dataclass(frozen=True, slots=True)
class AcceptableTask:
    """That nothing speaks against so far: its owner's credit and bytes stored, and it with its price."""

    score: int
    stored_bytes: int
    columns: PricedTask


def check_before_it_comes(
    gateway: Gateway, owner: CallerIdentity, columns: RequestedTask, size: int, sha256: str
) -> AcceptableTask:
    """What can be refused already: a stream may be long, and many come at once. Keeps nothing."""
    _, score, stored, fitted = _check_cheap(gateway, owner, _row_of(owner, columns, size, sha256))
    return AcceptableTask(score, stored, fitted)


def requested_task(gateway: Gateway, request: pb.UploadTaskRequest) -> RequestedTask:
    """The task's columns that the request decides. Raises InvalidInputError for what cannot be."""
    settings = gateway.settings
    check_task_id(request.task_id)
    needs = wire.needs_from_wire(request)
    image = request.image.strip() or settings.default_image
    if image not in settings.image_allow_list:
        raise InvalidInputError(
            f"image {image[:100]!r} is not allowed here; use one of: {', '.join(settings.image_allow_list)}"
        )
    if request.network and not settings.allow_task_network:
        raise InvalidInputError("this pool gives tasks no network; its operator can set ALLOW_TASK_NETWORK")
    minutes = request.max_minutes or settings.default_max_minutes
    if not 1 <= minutes <= settings.max_minutes_limit:
        raise InvalidInputError(f"max_minutes must be 1 to {settings.max_minutes_limit}, not {minutes}")
    return {
        "id": request.task_id,
        "cpu_score": needs.cpu_score,
        "memory_gb": needs.memory_gb,
        "memory_mb": needs.memory_mb,
        "gpu_score": needs.gpu_score,
        "gpu_memory_gb": needs.gpu_memory_gb,
        "gpu_name": wire.gpu_name_from_wire(request.gpu_name),
        "region": regions.task_region(request.location),
        "image": image,
        "network": request.network,
        "max_minutes": minutes,
        "minutes_by_balance": not request.max_minutes,
        "pinned_node": "",
        "priority": wire.priority_from_wire(request),
        "min_trust": wire.min_trust_from_wire(request.min_trust),
        "location_mode": wire.location_mode_from_wire(request.location_mode),
        "exclusive": request.exclusive,
        "fresh": request.fresh,
        "resubmit_of": "",
        "notify": to_lines(wanted_targets(request.notify)),
        **wire.retries_from_wire(request),
        **order_of(request),
        **_given(request),
        **_compared(request),
    }


def _given(request: pb.UploadTaskRequest) -> TaskInputs:
    inputs, secrets = wire.inputs_from_wire(request), wire.secrets_from_wire(request)
    return {
        "arguments": arguments_to_json(inputs.arguments),
        "environment": mapping_to_json(inputs.environment),
        "secrets": mapping_to_json(secrets),
        "secrets_on_low_trust": request.secrets_on_low_trust,
        "capabilities": needed(has_inputs=bool(inputs), has_secrets=bool(secrets)),
        "name": check_name(request.name),
        "labels": mapping_to_json(wire.labels_from_wire(request)),
    }


def _compared(request: pb.UploadTaskRequest) -> RequestedComparison:
    replicas = wire.replicas_from_wire(request.replicas)
    wire.check_exclusive(exclusive=request.exclusive, replicas=replicas)
    if replicas > 1 and len(request.task_id) > ids.MAX_PARENT_ID:
        raise InvalidInputError(
            f"the task_id of a task with replicas must have at most {ids.MAX_PARENT_ID} characters"
        )
    return {
        "replicas": replicas,
        "compare_outputs": "\n".join(check_patterns(request.compare_outputs)),
        "take_pending": request.take_pending,
        "verification": Verification.PENDING if replicas > 1 else "",
    }


async def submit(
    gateway: Gateway, owner: CallerIdentity, columns: RequestedTask, package: IncomingPackage
) -> Accepted:
    """Whole or not at all. What is cheap to refuse is refused before the package is looked at."""
    check_size(gateway, package.size)
    done = await gateway.run(_begin, gateway, owner, columns, package)
    if isinstance(done, Accepted):
        return done
    await package_check.look_into(gateway, owner, package)
    return await gateway.run(_keep, gateway, done, package)


def submit_kept(
    gateway: Gateway, owner: CallerIdentity, columns: RequestedTask, package: KeptPackage
) -> Accepted:
    """One whose package is here already, and was looked into when it came."""
    prepared = _prepare(gateway, owner, columns, package)
    return prepared if isinstance(prepared, Accepted) else _keep(gateway, prepared, package)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What nothing cheap speaks against. `columns` are the whole row."""

    owner: CallerIdentity
    columns: NewTask
    requested: PricedTask  # as it was asked for, whatever its owner's balance
    score: int
    stored: int  # bytes that the owner keeps already


def _begin(
    gateway: Gateway, owner: CallerIdentity, columns: RequestedTask, package: IncomingPackage
) -> Accepted | _Prepared:
    """All of it, where the package is small or was looked at before."""
    prepared = _prepare(gateway, owner, columns, package)
    if isinstance(prepared, Accepted):
        return prepared
    if not package_check.is_fine(gateway, package):
        return prepared
    return _keep(gateway, prepared, package)


def _prepare(
    gateway: Gateway, owner: CallerIdentity, columns: RequestedTask, package: PackageToKeep
) -> Accepted | _Prepared:
    now, sha256 = gateway.clock(), package.sha256
    priced = _row_of(owner, columns, package.size, sha256)
    existing, score, stored, fitted = _check_cheap(gateway, owner, priced)
    if existing is not None:
        return repeated(existing, priced, owner)
    package_check.check_not_refused(gateway, sha256)
    row: NewTask = {
        **fitted,
        "state": TaskState.QUEUED,
        "reason": "",
        "tier": task_tier(score),
        "created_at": now,
        "updated_at": now,
        "hinted_at": now,
        "queued_at": now,
    }
    return _Prepared(owner, row, priced, score, stored)


def _row_of(owner: CallerIdentity, columns: RequestedTask, size: int, sha256: str) -> PricedTask:
    return {
        **columns,
        "owner_id": owner.user_id,
        "price_per_minute": price_of(columns),
        "package_sha256": sha256,
        "package_bytes": size,
    }


def _check_cheap(
    gateway: Gateway, owner: CallerIdentity, columns: PricedTask
) -> tuple[WholeTask | None, int, int, PricedTask]:
    """The task that has this id already, of which nothing is checked; its owner's credit and storage; the
    task with as many minutes as their balance covers, where it names none."""
    fee_percent = gateway.settings.platform_fee_percent
    existing, score, stored, fitted = gateway.database.read(
        lambda connection: _before(connection, owner, columns, fee_percent)
    )
    if existing is None:
        owner_limits.check_access(columns, score)
        owner_limits.check_room(gateway, owner, score)
        storage_quota.check_room(gateway, owner, score, stored, columns)
    return existing, score, stored, fitted


def _keep(gateway: Gateway, prepared: _Prepared, package: PackageToKeep) -> Accepted:
    row, owner = prepared.columns, prepared.owner
    sha256 = row["package_sha256"]
    bound = storage_quota.bound(gateway, prepared.score)
    try:
        # Until its task is there, nobody removes the package as one that no task needs.
        with gateway.files.using_package(sha256):
            package.store(gateway.files)
            row, is_waiting = _store_fitting(gateway, prepared, bound)
    except AlreadyExistsError:
        storage_quota.discard(gateway, sha256)
        found = gateway.database.read(lambda connection: task_store.find(connection, row["id"]))
        return repeated(found, prepared.requested, owner)
    except NodePoolError:
        storage_quota.discard(gateway, sha256)
        raise
    gateway.unfinished.accepted(owner.user_id)
    for task_id in () if is_waiting else _to_place(row):
        gateway.publisher.place_soon(task_id, row["tier"], row["region"])
    return Accepted(
        row["id"],
        repeated=False,
        stored_bytes=prepared.stored,
        stored_bytes_limit=bound,
        max_minutes=row["max_minutes"],
        minutes_by_balance=row["minutes_by_balance"],
        retries=row["retries"],
    )


def _store_fitting(gateway: Gateway, prepared: _Prepared, bound: int) -> tuple[NewTask, bool]:
    """As it was stored, and whether it waits for others.

    Its owner's other tasks hold CPT at the same moment: one that names no minutes takes what is left.
    """
    row, owner, fee_percent = prepared.columns, prepared.owner, gateway.settings.platform_fee_percent
    is_waiting = False
    for tries_left in reversed(range(_FITS)):
        try:
            is_waiting = gateway.database.write(
                lambda c: _store(c, row, owner, fee_percent, bound),  # noqa: B023
                sharing=ledger_store.TOGETHER,
                order=owner.user_id,
            )
        except NotEnoughCptError:
            if not prepared.requested["minutes_by_balance"] or not tries_left:
                raise
            balance, _ = gateway.database.read(lambda c: ledger_store.balance(c, row["owner_id"]))  # noqa: B023
            minutes, fewer = fitting_minutes(prepared.requested, row["price_per_minute"], balance)
            row = {**row, "max_minutes": minutes, "minutes_by_balance": fewer}
        else:
            break
    return row, is_waiting


def price_of(columns: RequestedTask) -> int:
    needs = columns["cpu_score"], columns["memory_gb"], columns["gpu_score"], columns["gpu_memory_gb"]
    return price_per_minute_cpt(Resources(*needs, columns["memory_mb"]))


def _before(
    connection: Connection, owner: CallerIdentity, columns: PricedTask, fee_percent: int
) -> tuple[WholeTask | None, int, int, PricedTask]:
    if columns["pinned_node"]:
        node_store.find_own(connection, columns["pinned_node"], owner.user_id)
    facts = account_facts(connection, owner.user_id, columns["id"])
    existing = task_store.find_or_none(connection, columns["id"]) if facts.id_is_taken else None
    if existing is None:
        if facts.id_was_held:
            raise AlreadyExistsError(
                f"there was a task {columns['id']!r} before, which is removed; choose a new task_id"
            )
        user_secrets.check_wanted(connection, owner.user_id, columns["secrets"])
        notify_targets.check_wanted(connection, owner.user_id, columns["notify"])
        minutes, fewer = fitting_minutes(columns, columns["price_per_minute"], facts.balance)
        columns = {**columns, "max_minutes": minutes, "minutes_by_balance": fewer}
        terms = ledger_store.terms_of(columns, fee_percent)
        task_order.unmet(connection, columns, owner.user_id)
        # The hold itself is what counts; this keeps the package of a task that cannot be from being stored.
        if facts.balance < terms.amount:
            ledger_store.check_covered(connection, owner.user_id, terms)
    return existing, facts.credit_score, facts.stored_bytes, columns


def _store(connection: Connection, row: NewTask, owner: CallerIdentity, fee_percent: int, bound: int) -> bool:
    """The task, its runs where it has several, and what it may cost, or none of it; whether it waits for
    others."""
    now = row["created_at"]
    needs = task_order.unmet(connection, row, owner.user_id)
    # One whose results are compared holds for all its runs at once, and so when it is accepted.
    holds_later = bool(needs) and row["replicas"] == 1
    later = {"holds_when_placed": True, "fee_percent": fee_percent} if holds_later else {}
    task_store.insert_task(connection, {**row, **task_order.waiting(needs), **later})
    label_store.add(connection, [row])
    if needs:
        dependencies.add(connection, Unit(row["id"]), needs)
    elif row["replicas"] > 1:
        replica_store.add_runs(connection, row, range(1, row["replicas"] + 1), now)
    if not holds_later:
        ledger_store.hold(connection, row, fee_percent=fee_percent, now=now)
    # The last: rows of storage accounts are locked after all others.
    storage_accounting.add_package(connection, row, bound)
    accepted = TaskAccepted(
        task=row["id"],
        owner_id=owner.user_id,
        user=owner.username,
        tier=row["tier"],
        region=row["region"],
        replicas=row["replicas"],
        price_per_minute=row["price_per_minute"],
        max_minutes=row["max_minutes"],
        package_bytes=row["package_bytes"],
    )
    note(connection, accepted)
    return bool(needs)


def _to_place(row: NewTask) -> list[str]:
    if row["replicas"] == 1:
        return [row["id"]]
    return [ids.run_id(row["id"], number) for number in range(1, row["replicas"] + 1)]
