"""What owners ask of their jobs: how they are, which tasks they have, and to stop."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from gateway import messages as views, page_tokens
from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from gateway.usecases import notify_targets, tasks
from nodepool.domain.errors import InvalidInputError, NotFoundError, UnavailableError
from nodepool.domain.money.pricing import is_covered, to_hold_when_placed
from nodepool.domain.tasks.reasons import ReasonCode, waits_for_cpt
from nodepool.domain.tasks.states import JobKind, TaskState
from nodepool.domain.tasks.task_filter import states_of
from nodepool.stores.sql import held_back_results, job_steps, jobs as job_store
from nodepool.stores.sql.job_rows import JobMoney, JobReason, StoredJob, StoredStep
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.notifications import StoredNotification
from nodepool.stores.sql.task_rows import OwnedTask
from nodepool.workflows import dependents

log = logging.getLogger(__name__)
_PAGE, _MOST = 100, 1000
_REASONS = 20
_AT_ONCE = 1000
_TOLD = (TaskState.QUEUED, TaskState.WAITING, TaskState.FAILED, TaskState.STOPPED)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownJob:
    job: StoredJob
    counts: dict[str, int]
    money: JobMoney = JobMoney()  # noqa: RUF009 - a frozen value
    reasons: Sequence[JobReason] = ()
    worst_exit_code: int = 0  # of tasks that failed, of a job whose end is waited for
    steps: Sequence[StoredStep] = ()  # of a flow
    step_counts: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    told: Sequence[StoredNotification] = ()


def find_own(gateway: Gateway, identity: CallerIdentity, job_id: str) -> StoredJob:
    """Raises NotFoundError."""
    return gateway.database.read(lambda c: job_store.find(c, job_id, identity.user_id))


def show(gateway: Gateway, identity: CallerIdentity, job_id: str) -> ShownJob:
    job = find_own(gateway, identity, job_id)
    counts, money, reasons, balance, first = gateway.database.read(
        lambda c: (
            job_store.counts(c, [job_id]).get(job_id, {}),
            job_store.money(c, job_id),
            job_store.reasons(c, job_id, _TOLD, _REASONS),
            ledger_store.balances(c, [identity.user_id]).get(identity.user_id, 0),
            job_store.next_unpaid(c, job_id),
        )
    )
    steps: Sequence[StoredStep] = ()
    step_counts: Mapping[int, Mapping[str, int]] = {}
    if job.kind is JobKind.FLOW:
        steps, step_counts = gateway.database.read(
            lambda c: (job_steps.of_job(c, job_id), job_steps.counts(c, job_id))
        )
    return ShownJob(
        job=job,
        counts=counts,
        money=money,
        reasons=_with_money(reasons, first, balance),
        steps=steps,
        step_counts=step_counts,
        told=notify_targets.told(gateway, job.owner_id, job.id, job.notify),
    )


def _with_money(reasons: Sequence[JobReason], waiting: OwnedTask | None, balance: int) -> list[JobReason]:
    """A dispatcher tells those that it looks at why they wait; the others wait for the same."""
    found = list(reasons)
    amount = to_hold_when_placed(waiting) if waiting is not None else 0
    if not amount or is_covered(balance, amount):
        return found
    words = str(waits_for_cpt(amount))
    unpaid = [it for it in found if it.state is TaskState.QUEUED and it.code in ("", ReasonCode.NO_MONEY)]
    if not unpaid:
        return found
    first = min(it.first_index for it in unpaid)
    total = sum(it.tasks for it in unpaid)
    left = [it for it in found if it not in unpaid]
    return [JobReason(TaskState.QUEUED, ReasonCode.NO_MONEY, words, total, first), *left]


def list_own(
    gateway: Gateway, identity: CallerIdentity, page_size: int, page_token: str
) -> tuple[list[ShownJob], str]:
    """A page, and the token of the next; empty: that was all."""
    size = views.page_size(page_size, default=_PAGE, most=_MOST)
    before = _from_token(gateway, identity, page_token)
    rows = gateway.database.read(lambda c: job_store.of_owner(c, identity.user_id, size + 1, before=before))
    page = rows[:size]
    counts = gateway.database.read(lambda c: job_store.counts(c, [job.id for job in page]))
    token = _token(gateway, identity, page[-1]) if len(rows) > size else ""
    return [ShownJob(job=job, counts=counts.get(job.id, {})) for job in page], token


_QUESTION = "jobs"


def _token(gateway: Gateway, identity: CallerIdentity, job: StoredJob) -> str:
    return page_tokens.issue(gateway.tokens, identity.user_id, _QUESTION, [job.created_at, job.id])


def _from_token(gateway: Gateway, identity: CallerIdentity, token: str) -> tuple[float, str] | None:
    if not token:
        return None
    at, job_id = page_tokens.read(gateway.tokens, identity.user_id, _QUESTION, token)
    return float(at), str(job_id)


def list_tasks(
    gateway: Gateway,
    identity: CallerIdentity,
    job_id: str,
    states: Collection[str],
    page_size: int,
    from_index: int,
    step: str = "",
) -> tuple[Sequence[OwnedTask], int]:
    """A page, and the index of the next; 0: that was all. `step`: those of this step of a flow."""
    find_own(gateway, identity, job_id)
    wanted = states_of(states)
    last: int | None = None
    if step:
        found = _step(gateway, job_id, step)
        from_index, last = max(from_index, found.first_index), found.last_index
    size = views.page_size(page_size, default=_PAGE, most=_MOST)
    rows = gateway.database.read(
        lambda c: job_store.tasks_page(c, job_id, size + 1, after=from_index - 1, last=last, states=wanted)
    )
    following = rows[size].job_index if len(rows) > size else 0
    return rows[:size], following


def _step(gateway: Gateway, job_id: str, name: str) -> StoredStep:
    steps = gateway.database.read(lambda c: job_steps.of_job(c, job_id))
    found = next((step for step in steps if step.name == name), None)
    if found is None:
        names = ", ".join(step.name for step in steps) or "it is no flow"
        raise InvalidInputError(f"job {job_id} has no step {name[:40]!r}: {names}")
    return found


async def stop(gateway: Gateway, identity: CallerIdentity, job_id: str) -> int:
    """How many tasks of it had not ended. Those that wait are stopped here, a thousand at a time, those that
    run are asked, and results that are held back are given, unchecked; what a gateway that ends meanwhile
    leaves undone the sweep does."""
    await gateway.run(find_own, gateway, identity, job_id)
    await gateway.run(gateway.database.write, lambda c: job_store.request_stop(c, job_id))
    stopped = 0
    while ids := await gateway.run(_stop_waiting, gateway, job_id):
        stopped += len(ids)
    for left in (job_store.still_to_stop, held_back_results.ids_of_job):
        while ids := await gateway.run(gateway.database.read, lambda c: left(c, job_id, _AT_ONCE)):  # noqa: B023
            for task_id in ids:
                await gateway.run(_stop_one, gateway, identity, task_id)
            stopped += len(ids)
    await gateway.run(_go_on_after, gateway, job_id)
    return stopped


def _go_on_after(gateway: Gateway, job_id: str) -> None:
    try:
        gateway.lifecycle.tell_dependents(dependents.after_job(gateway.lifecycle.settling, job_id))
    except UnavailableError as error:
        log.warning("what comes after job %s is looked at by the sweep: %s", job_id, error)


def _stop_waiting(gateway: Gateway, job_id: str) -> list[str]:
    now = gateway.clock()
    return gateway.database.write(lambda c: job_store.stop_waiting(c, job_id, now, _AT_ONCE))


def _stop_one(gateway: Gateway, identity: CallerIdentity, task_id: str) -> None:
    try:
        tasks.stop(gateway, identity, task_id)
    except NotFoundError:
        return  # it was deleted
