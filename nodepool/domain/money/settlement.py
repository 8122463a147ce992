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
    amount: int
    price_per_minute: int
    fee_percent: int = 0


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


def settle(hold: Hold, providers: Sequence[Provider], minutes: int, attempt_id: str = "") -> HoldEnd:
    """Pay the minutes of all providers' runs together to them, and give the rest back."""
    bill = ledger.bill(
        hold.amount,
        price_per_minute=hold.price_per_minute,
        minutes=minutes,
        fee_percent=hold.fee_percent,
        shares=[provider.share for provider in providers],
    )
    named = [replace(it, attempt_id=it.attempt_id or attempt_id) for it in providers]
    return HoldEnd(
        task_id=hold.task_id,
        state=HoldState.POSTED if bill.charged else HoldState.VOIDED,
        bill=bill,
        entries=tuple(_entries(hold, named, bill, minutes)),
    )


def _entries(hold: Hold, providers: Sequence[Provider], bill: Bill, minutes: int) -> list[NewEntry]:
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
    if bill.released:
        release = ledger.release_id(task_id)
        entries.append(
            NewEntry(
                release, EntryKind.RELEASE, ledger.ESCROW, hold.account_id, bill.released, task_id, "not used"
            )
        )
    return entries
