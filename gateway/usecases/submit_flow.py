"""Accepting a flow: its steps as tasks of one job, whole or not at all, and idempotent by its id.

As an array is accepted (see submit_array): what is cheap to refuse is refused first, what tasks are given is
worked out in a bounded process, and they go into SQL in short transactions, of which the last one accepts the
job. From then on the pool runs it: a step that comes after others waits in SQL until these have ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from gateway.usecases import (
    job_acceptance,
    keep_flow,
    notify_targets,
    owner_limits,
    package_check,
    storage_quota,
    submit_task,
    task_order,
    user_secrets,
)
from gateway.usecases.array_price import ArrayPrice, check_most, price_of_array
from gateway.usecases.flow_request import FlowRequest, RequestedStep
from gateway.usecases.incoming_package import IncomingPackage, PackageToKeep
from gateway.usecases.keep_flow import AcceptedFlow, FlowPart, PreparedFlow
from nodepool.domain.capabilities import needed
from nodepool.domain.errors import InvalidInputError
from nodepool.domain.tasks.dependencies import Need, Standing, Unit, from_lines, to_lines
from nodepool.domain.tasks.flows import index_ranges
from nodepool.domain.tasks.new_task import PricedTask, RequestedTask
from nodepool.domain.tasks.states import JobKind, TaskState
from nodepool.domain.trust.tiers import task_tier
from nodepool.stores.sql import job_intake
from nodepool.stores.sql.account_facts import AccountFacts, account_facts
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.job_intake import Naming
from nodepool.stores.sql.job_rows import StoredStep
from nodepool.workflows import unaccepted_jobs

_UNFINISHED = Standing(has_ended=False)


async def submit(
    gateway: Gateway,
    owner: CallerIdentity,
    request: FlowRequest,
    packages: Sequence[IncomingPackage],
    stack: ExitStack,
) -> AcceptedFlow:
    """`stack` has the packages' files, and is taken over while they are kept. Raises what an array raises."""
    prepared = await gateway.run(_prepare, gateway, owner, request, packages)
    if isinstance(prepared, AcceptedFlow):
        return prepared
    for package in packages:
        submit_task.check_size(gateway, package.size)
        if not await gateway.run(package_check.is_fine, gateway, package):
            await package_check.look_into(gateway, owner, package)
    pieces = [await _pieces(gateway, owner, step) for step in request.steps]
    return await keep_flow.keep(gateway, prepared, pieces, stack)


async def _pieces(gateway: Gateway, owner: CallerIdentity, step: RequestedStep) -> list[str]:
    try:
        return await job_acceptance.expanded(gateway, owner.user_id, step.items, step.inputs)
    except InvalidInputError as error:
        raise InvalidInputError(f"step {step.order.name!r}: {error}") from None


# -- what can be refused ------------------------------------------------------------------------------
def _prepare(
    gateway: Gateway, owner: CallerIdentity, request: FlowRequest, packages: Sequence[IncomingPackage]
) -> AcceptedFlow | PreparedFlow:
    known = gateway.database.read(lambda c: job_intake.find_any(c, request.job_id))
    if known is not None and known.accepted_at is not None:
        job_intake.check_same(known, owner.user_id, request.digest)
        return AcceptedFlow(job_id=known.id, tasks=known.count, most=0, repeated=True)
    account = gateway.database.read(lambda c: _account(c, owner, request.notify))
    job = {
        "id": request.job_id,
        "name": request.name,
        "labels": request.labels,
        "digest": request.digest,
        "max_cpt": request.max_cpt,
        "notify": request.notify,
    }
    return prepare(gateway, owner, account, job, _parts(gateway, owner, request, packages, account))


def _account(connection: Connection, owner: CallerIdentity, notify: str) -> AccountFacts:
    """Raises NotFoundError for targets that are not set."""
    notify_targets.check_wanted(connection, owner.user_id, notify)
    return account_facts(connection, owner.user_id)


def prepare(
    gateway: Gateway,
    owner: CallerIdentity,
    account: AccountFacts,
    job: Mapping[str, Any],
    parts: Sequence[FlowPart],
    other_steps: Sequence[StoredStep] = (),
) -> PreparedFlow:
    """What can be refused of all steps together. `job`: columns of its row."""
    tasks, stored = sum(part.stored.tasks for part in parts), account.stored_bytes
    owner_limits.check_room(gateway, owner, account.credit_score, more=tasks)
    for part in parts:
        owner_limits.check_access(part.row, account.credit_score)  # type: ignore[arg-type]
        package_check.check_not_refused(gateway, part.package.sha256)
    for part in {part.package.sha256: part for part in parts}.values():
        storage_quota.check_room(gateway, owner, account.credit_score, stored, part.row)  # type: ignore[arg-type]
        stored += part.package.size
    check_most(sum(part.price.most for part in parts), job["max_cpt"])
    own = {"owner_id": owner.user_id, "kind": JobKind.FLOW, "count": tasks}
    return PreparedFlow(
        owner=owner,
        parts=parts,
        job={**job, **own, "holder": unaccepted_jobs.new_holder()},
        stored_bound=storage_quota.bound(gateway, account.credit_score),
        other_steps=other_steps,
    )


def _parts(
    gateway: Gateway,
    owner: CallerIdentity,
    request: FlowRequest,
    packages: Sequence[IncomingPackage],
    account: AccountFacts,
) -> list[FlowPart]:
    steps = request.steps
    ranges = index_ranges([_last_index(step) for step in steps])
    number_of = {step.order.name: number for number, step in enumerate(steps)}
    parts = []
    for number, step in enumerate(steps):
        stored = _stored(request.job_id, number, step, ranges[number].first, ranges[number].last)
        needs = needs_of(stored, number_of)
        needs += gateway.database.read(lambda c: _outside(c, owner, step))  # noqa: B023
        parts.append(part_of(gateway, owner, account, stored, step.columns, packages[step.package], needs))
    return parts


def needs_of(step: StoredStep, number_of: Mapping[str, int]) -> list[Need]:
    """On steps that are in the flow by these numbers."""
    return [
        Need(Unit(step.job_id, number_of[name], name), on_any_end, _UNFINISHED)
        for on_any_end, names in ((False, step.needs), (True, step.needs_any))
        for name in from_lines(names)
        if name in number_of
    ]


def part_of(
    gateway: Gateway,
    owner: CallerIdentity,
    account: AccountFacts,
    stored: StoredStep,
    columns: RequestedTask,
    package: PackageToKeep,
    needs: Sequence[Need],
) -> FlowPart:
    """Raises NotEnoughCptError where the balance covers none of its tasks."""
    price = price_of_array(columns, stored.tasks, account.balance, 0)
    mark = "." if stored.is_array else ""
    prefix = f"{stored.job_id}.{stored.name}{mark}"
    return FlowPart(
        stored=stored,
        package=package,
        row=_row(gateway, owner, stored, columns, package, price, needs, task_tier(account.credit_score)),
        needs=needs,
        naming=Naming(prefix, stored.first_index, is_one=not stored.is_array),
        price=price,
    )


def _outside(connection: Connection, owner: CallerIdentity, step: RequestedStep) -> list[Need]:
    """What of the owner's other tasks it comes after. Raises NotFoundError, also for secrets not set."""
    user_secrets.check_wanted(connection, owner.user_id, step.columns["secrets"])
    notify_targets.check_wanted(connection, owner.user_id, step.columns["notify"])
    return task_order.unmet(connection, step.columns, owner.user_id)


def _last_index(step: RequestedStep) -> int:
    """Of its items, each of which begins with an index; what is no such line is refused when it is read."""
    last = 0
    for line in step.items.splitlines():
        digits = line.strip(b" []\t\r").split(b",")[0].strip()
        last = max(last, int(digits) if digits.isdigit() else 0)
    return last


def _stored(job_id: str, number: int, step: RequestedStep, first: int, last: int) -> StoredStep:
    return StoredStep(
        job_id=job_id,
        number=number,
        name=step.order.name,
        is_array=step.is_array,
        tasks=step.tasks,
        first_index=first,
        last_index=last,
        needs=to_lines(step.order.needs),
        needs_any=to_lines(step.order.needs_any),
        inputs=to_lines(step.results),
        array_count=step.tasks,
    )


def _row(
    gateway: Gateway,
    owner: CallerIdentity,
    stored: StoredStep,
    requested: RequestedTask,
    package: PackageToKeep,
    price: ArrayPrice,
    needs: Sequence[Need],
    tier: str,
) -> dict[str, Any]:
    now = gateway.clock()
    columns: PricedTask = {
        **requested,
        "max_minutes": price.max_minutes,
        "minutes_by_balance": price.minutes_by_balance,
        "owner_id": owner.user_id,
        "price_per_minute": price.price_per_minute,
        "package_sha256": package.sha256,
        "package_bytes": package.size,
    }
    # Of what it comes after its tasks have the reason, and the step the rest.
    own = {"id", "arguments", "environment", "after", "after_any"}
    has_inputs = stored.is_array or bool(requested["arguments"] or requested["environment"])
    return {
        **{name: value for name, value in columns.items() if name not in own},
        "capabilities": needed(
            has_inputs=has_inputs,
            has_secrets=bool(requested["secrets"]),
            has_results=bool(stored.inputs),
        ),
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
