"""How a task's end divides what it holds, as data: the hold's last state, and the movements. Pure.

It knows no attempt and no node: who is paid for how many minutes is decided by those who end tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nodepool.domain.money import ledger
from nodepool.domain.money.ledger import Bill, EntryKind, HoldState, NewEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What a task holds, as long as it holds it, and what was agreed for it."""

    task_id: str
    account_id: str  # whose it is
    amount: int  # that is left of it
    price_per_minute: int
    fee_percent: int = 0
    paid: int = 0  # for tries that failed


@dataclass(frozen=True, slots=True)
class Provider:
    """Who is paid, for which attempt (the one that ended where it is empty), and in which proportion."""

    user_id: int
    share: int = 1
    attempt_id: str = ""
    account: str = ""  # where it goes, when it is not the user's


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldEnd:
    """The end of a hold."""

    task_id: str
    state: HoldState
    bill: Bill
    entries: tuple[NewEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TryPaid:
    """What a try costs that failed and is followed by another: the hold goes on with the rest."""

    task_id: str
    bill: Bill
    entries: tuple[NewEntry, ...]


def settle_try(hold: Hold, providers: Sequence[Provider], minutes: int, attempt_id: str) -> TryPaid:
    """Pay its minutes, and give nothing back: the rest is for the next try."""
    bill, named = _bill(hold, providers, minutes, attempt_id)
    return TryPaid(task_id=hold.task_id, bill=bill, entries=tuple(_payments(hold, named, bill, minutes)))


def settle(hold: Hold, providers: Sequence[Provider], minutes: int, attempt_id: str = "") -> HoldEnd:
    """Pay the minutes of all providers' runs together to them, and give the rest back."""
    bill, named = _bill(hold, providers, minutes, attempt_id)
    return HoldEnd(
        task_id=hold.task_id,
        state=HoldState.POSTED if bill.charged or hold.paid else HoldState.VOIDED,
        bill=bill,
        entries=(*_payments(hold, named, bill, minutes), *_release(hold, bill)),
    )


def _bill(
    hold: Hold, providers: Sequence[Provider], minutes: int, attempt_id: str
) -> tuple[Bill, list[Provider]]:
    """And the providers, each with the attempt that is paid."""
    bill = ledger.bill(
        hold.amount,
        price_per_minute=hold.price_per_minute,
        minutes=minutes,
        fee_percent=hold.fee_percent,
        shares=[provider.share for provider in providers],
    )
    return bill, [replace(it, attempt_id=it.attempt_id or attempt_id) for it in providers]


def _payments(hold: Hold, providers: Sequence[Provider], bill: Bill, minutes: int) -> list[NewEntry]:
    task_id, entries = hold.task_id, []
    memo = f"{minutes} min at {hold.price_per_minute} CPT a minute"
    if len(providers) > 1:
        memo = f"a share of {memo}"
    for provider, part in zip(providers, bill.parts, strict=True):
        attempt = provider.attempt_id
        if part.payment:
            account = provider.account or ledger.user_account(provider.user_id)
            pay = ledger.payment_id(attempt)
            entries.append(
                NewEntry(pay, EntryKind.PAYMENT, ledger.ESCROW, account, part.payment, task_id, memo)
            )
        if part.fee:
            kept = f"{hold.fee_percent} % of {part.payment + part.fee} CPT"
            fee = ledger.fee_id(attempt)
            entries.append(NewEntry(fee, EntryKind.FEE, ledger.ESCROW, ledger.FEE, part.fee, task_id, kept))
    return entries


def _release(hold: Hold, bill: Bill) -> list[NewEntry]:
    if not bill.released:
        return []
    release, back = ledger.release_id(hold.task_id), hold.account_id
    return [
        NewEntry(release, EntryKind.RELEASE, ledger.ESCROW, back, bill.released, hold.task_id, "not used")
    ]
