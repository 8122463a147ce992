"""Holds: what a task may cost is set aside when it is accepted or first placed, and divided once, at its end.

Functions of a connection: the use case that calls them owns the transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Connection, bindparam, insert, select, update

from nodepool.domain.errors import NotEnoughCptError, StateConflictError
from nodepool.domain.money import ledger, settlement
from nodepool.domain.money.ledger import Bill, EntryKind, HoldState, NewEntry, PriceTerms
from nodepool.domain.money.settlement import Hold, HoldEnd, Provider, TryPaid
from nodepool.stores.sql.ledger.postings import append, balance as balance_of, balances, lock
from nodepool.stores.sql.tables import holds

_INSERT_HOLD = insert(holds)
# Whoever ends a task has its row locked, so that two ends do not meet here.
_STILL_HELD = select(holds).where(holds.c.task_id == bindparam("task"), holds.c.state == HoldState.HELD)
_END = (
    update(holds)
    .where(holds.c.task_id == bindparam("task"), holds.c.state == HoldState.HELD)
    .values(
        state=bindparam("new_state"),
        posted=holds.c.posted + bindparam("charged", type_=BigInteger),
        ended_at=bindparam("now"),
    )
)
_STILL = holds.c.task_id == bindparam("task"), holds.c.state == HoldState.HELD
_HOLD_AGAIN = (
    update(holds).where(*_STILL).values(amount=holds.c.amount + bindparam("again", type_=BigInteger))
)
_PAY_TRY = update(holds).where(*_STILL).values(posted=holds.c.posted + bindparam("charged", type_=BigInteger))


@dataclass(frozen=True, slots=True)
class Settlement:
    """`changed` is False when the task held nothing (any more); then nothing was moved."""

    changed: bool
    bill: Bill = Bill((), 0)  # noqa: RUF009 - a frozen value

    @property
    def charged(self) -> int:
        return self.bill.charged


@dataclass(frozen=True, slots=True)
class DeferredHold:
    """What a task is to hold that is about to be placed: for the first time, or `again` what its last try was
    paid, before the attempt of this `number`."""

    task_id: str
    owner_id: int
    terms: PriceTerms
    again: int = 0
    number: int = 1

    @property
    def amount(self) -> int:
        return self.again or self.terms.amount


def terms_of(task: Mapping[str, Any], fee_percent: int) -> PriceTerms:
    """What the columns of a new task agree on."""
    return PriceTerms(task["price_per_minute"], task["max_minutes"], task.get("replicas", 1), fee_percent)


def check_covered(connection: Connection, owner_id: int, terms: PriceTerms) -> None:
    """Raises NotEnoughCptError, with what would be covered, when the owner cannot hold that much."""
    balance, held = balance_of(connection, owner_id)
    if balance < terms.amount:
        raise _not_covered(terms, balance, held)


def hold(connection: Connection, task: Mapping[str, Any], *, fee_percent: int, now: float) -> PriceTerms:
    """Set the task's price aside, in the transaction that stores the task. Raises NotEnoughCptError."""
    terms = terms_of(task, fee_percent)
    try:
        hold_all(connection, [DeferredHold(task["id"], task["owner_id"], terms)], now)
    except NotEnoughCptError:
        check_covered(connection, task["owner_id"], terms)
        raise
    return terms


def covered(
    connection: Connection, wanted: Sequence[DeferredHold], *, lock_ledger: bool
) -> list[DeferredHold]:
    """Those that their owners can hold now, of each owner the first ones. `lock_ledger`: nobody moves CPT
    before the transaction ends; else `hold_all` may still find that there is too little."""
    if not wanted:
        return []
    if lock_ledger:
        lock(connection)
    left = balances(connection, {it.owner_id for it in wanted})
    found = []
    for it in wanted:
        if left.get(it.owner_id, 0) >= it.amount:
            left[it.owner_id] -= it.amount
            found.append(it)
    return found


def hold_all(connection: Connection, wanted: Sequence[DeferredHold], now: float) -> None:
    """Set all of it aside, or nothing. Raises NotEnoughCptError."""
    if not wanted:
        return
    # Before the ledger's head is locked: everybody who moves CPT waits for that.
    if new := [_hold_row(it, now) for it in wanted if not it.again]:
        connection.execute(_INSERT_HOLD, new)
    for it in wanted:
        if it.again:
            _hold_again(connection, it)
    append(connection, [_hold_entry(it) for it in wanted], now)


def _hold_again(connection: Connection, wanted: DeferredHold) -> None:
    """Raises StateConflictError where the task holds nothing any more."""
    more = connection.execute(_HOLD_AGAIN, {"task": wanted.task_id, "again": wanted.again})
    if more.rowcount != 1:
        raise StateConflictError(f"task {wanted.task_id} holds nothing any more; its placement is undone")


def _hold_row(wanted: DeferredHold, now: float) -> dict[str, Any]:
    terms = wanted.terms
    return {
        "task_id": wanted.task_id,
        "account_id": ledger.user_account(wanted.owner_id),
        "amount": terms.amount,
        "price_per_minute": terms.price_per_minute,
        "max_minutes": terms.max_minutes,
        "fee_percent": terms.fee_percent,
        "state": HoldState.HELD,
        "created_at": float(now),
    }


def _hold_entry(wanted: DeferredHold) -> NewEntry:
    task_id, again = wanted.task_id, wanted.again
    return NewEntry(
        ledger.hold_again_id(task_id, wanted.number) if again else ledger.hold_id(task_id),
        EntryKind.HOLD,
        ledger.user_account(wanted.owner_id),
        ledger.ESCROW,
        wanted.amount,
        task_id=task_id,
        memo="for another try" if again else wanted.terms.memo,
    )


def settle(
    connection: Connection,
    task_id: str,
    attempt_id: str,
    providers: Sequence[Provider],
    minutes: int,
    now: float,
) -> Settlement:
    """Divide what the task holds: pay the minutes to the providers, give the rest back.

    `minutes` are those of all providers' runs together. Called in the transaction that ends the task;
    a task that holds nothing, or whose hold has ended, is left as it is.
    """
    held = find_held(connection, task_id)
    if held is None:
        return Settlement(changed=False)
    ended = settlement.settle(held, providers, minutes, attempt_id)
    if not end(connection, ended, now):
        return Settlement(changed=False)
    return Settlement(changed=True, bill=ended.bill)


def find_held(connection: Connection, task_id: str) -> Hold | None:
    """What the task holds; None where it holds nothing, or its hold has ended."""
    found = connection.execute(_STILL_HELD, {"task": task_id}).one_or_none()
    if found is None:
        return None
    return Hold(
        task_id=found.task_id,
        account_id=found.account_id,
        amount=found.amount - found.posted,
        price_per_minute=found.price_per_minute,
        fee_percent=found.fee_percent,
        paid=found.posted,
    )


def end(connection: Connection, ended: HoldEnd, now: float) -> bool:
    """End the hold as it was decided. False where it had ended before: then nothing is moved."""
    changed = connection.execute(
        _END,
        {
            "task": ended.task_id,
            "new_state": ended.state,
            "charged": ended.bill.charged,
            "now": float(now),
        },
    )
    if changed.rowcount != 1:
        return False
    if ended.entries:  # of a hold that tries have used up nothing is left to move
        append(connection, ended.entries, now)
    return True


def pay_try(connection: Connection, paid: TryPaid, now: float) -> bool:
    """A try that failed is paid, and the hold goes on. False where it has ended: then nothing is moved."""
    charged = paid.bill.charged
    changed = connection.execute(_PAY_TRY, {"task": paid.task_id, "charged": charged})
    if changed.rowcount != 1:
        return False
    if paid.entries:
        append(connection, paid.entries, now)
    return True


def void(connection: Connection, task_id: str, now: float) -> Settlement:
    """Give all of it back: the task ended and nobody is paid."""
    return settle(connection, task_id, "", (), 0, now)


def _not_covered(terms: PriceTerms, balance: int, held: int) -> NotEnoughCptError:
    each = terms.price_per_minute * terms.runs
    runs = "" if terms.runs == 1 else f" and {terms.runs} runs"
    affordable = balance // each
    what = (
        f"ask for max_minutes {affordable} or less, or for less memory, CPU and GPU"
        if affordable
        else "ask for less memory, CPU and GPU, or get CPT first"
    )
    back = f" ({held} are held by your tasks, and what they do not use comes back)" if held else ""
    return NotEnoughCptError(
        f"this task costs {terms.price_per_minute} CPT for each started minute; for {terms.max_minutes} "
        f"minutes{runs} {terms.amount} CPT are set aside, and what is not used comes back, but there are "
        f"{balance} CPT in your account{back}: {what}"
    )
