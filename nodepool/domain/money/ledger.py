"""The ledger's rules: accounts, entries and their chain, and what the end of a task pays.

CPT are whole numbers. Every movement is one entry that takes from one account and gives to another, so
that nothing is ever made or lost on the way: what exists is the mint's debt, and the sum of all balances
is zero. An entry's id says what it is for, so that the same movement told twice is found and passed
over. Each entry carries a hash over itself and the hash of the one before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.money.pricing import started_minutes
from nodepool.domain.tasks.states import Outcome

# The most that may ever be minted, so that no balance and no sum leaves a database's 64-bit integer.
MAX_CPT = (1 << 62) - 1
MAX_ID_LENGTH = 300
MAX_MEMO_LENGTH = 500
# What the first entry's hash is made over in place of one before it.
GENESIS = "0" * 64
_PERCENT = 100
_MILLISECONDS = 1000


class AccountKind(StrEnum):
    USER = "user"
    ESCROW = "escrow"  # what tasks hold
    PENDING = "pending"  # what was paid for results that are not verified yet
    FEE = "fee"  # what the pool keeps
    MINT = "mint"  # where CPT come from; its balance is minus all that was ever minted


class EntryKind(StrEnum):
    GRANT = "grant"
    TRANSFER = "transfer"
    HOLD = "hold"
    PAYMENT = "payment"
    FEE = "fee"
    RELEASE = "release"
    REVERSAL = "reversal"
    AWARD = "award"  # what a verified result brings, or a run that the pool ordered
    REFUND = "refund"  # of what was paid for a result that was false


class HoldState(StrEnum):
    HELD = "held"
    POSTED = "posted"  # something of it was paid
    VOIDED = "voided"  # all of it went back


ESCROW = AccountKind.ESCROW.value
PENDING = AccountKind.PENDING.value
FEE = AccountKind.FEE.value
MINT = AccountKind.MINT.value
_USER_PREFIX = "user:"


def user_account(user_id: int) -> str:
    return f"{_USER_PREFIX}{user_id}"


def lowest_balance(account: str) -> int:
    """How far the account may go down."""
    return -MAX_CPT if account == MINT else 0


# -- ids: what an entry is for ------------------------------------------------------------------------
def opening_id(user_id: int) -> str:
    return f"grant:{user_id}"


def mint_id(client_id: str) -> str:
    return f"mint:{client_id}"


def transfer_id(sender_id: int, client_id: str) -> str:
    return f"transfer:{sender_id}:{client_id}"


def hold_id(task_id: str) -> str:
    return f"hold:{task_id}"


def hold_again_id(task_id: str, number: int) -> str:
    """Of what is set aside again before another try, the attempt of this number."""
    return f"hold:{task_id}:{number}"


def release_id(task_id: str) -> str:
    return f"release:{task_id}"


def payment_id(attempt_id: str) -> str:
    return f"pay:{attempt_id}"


def fee_id(attempt_id: str) -> str:
    return f"fee:{attempt_id}"


def award_id(attempt_id: str, source: str) -> str:
    """`source` is the account that it comes from: a run may be paid from two."""
    return f"award:{attempt_id}:{source}"


def refund_id(task_id: str) -> str:
    return f"refund:{task_id}"


def reversal_id(entry_id: str) -> str:
    return f"reversal:{entry_id}"


# -- entries ------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class NewEntry:
    """A movement that is to be made: `amount` CPT from the account `debit` to the account `credit`."""

    id: str
    kind: EntryKind
    debit: str
    credit: str
    amount: int
    task_id: str = ""
    memo: str = ""


def check_amount(amount: int) -> None:
    if not 1 <= amount <= MAX_CPT:
        raise InvalidInputError(f"the amount must be a whole number of CPT from 1 to {MAX_CPT}, not {amount}")


def check_entry(entry: NewEntry) -> None:
    """Raises InvalidInputError for a movement that can never be."""
    check_amount(entry.amount)
    if entry.debit == entry.credit:
        raise InvalidInputError("CPT can only be moved from one account to another")
    if not 0 < len(entry.id) <= MAX_ID_LENGTH:
        raise InvalidInputError(f"the id of a movement must have 1 to {MAX_ID_LENGTH} characters")
    if len(entry.memo) > MAX_MEMO_LENGTH:
        raise InvalidInputError(f"a note must have at most {MAX_MEMO_LENGTH} characters")


@dataclass(frozen=True, slots=True)
class Posted:
    """An entry as it stands in the ledger, without its hash. Balances are those afterwards."""

    seq: int
    entry: NewEntry
    debit_balance: int
    credit_balance: int
    created_at: float


def entry_hash(before: str, posted: Posted) -> str:
    """SHA-256 over the canonical text of the entry and of the hash before it.

    The text is a JSON list, so that no two different entries have the same. It must never change:
    every ledger that exists is checked with it.
    """
    entry = posted.entry
    parts = [
        before,
        posted.seq,
        entry.id,
        str(entry.kind),
        entry.debit,
        entry.credit,
        entry.amount,
        posted.debit_balance,
        posted.credit_balance,
        entry.task_id,
        entry.memo,
        float(posted.created_at),
    ]
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()


# -- what a task holds and pays -----------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class PriceTerms:
    """What was agreed at submit; later changes of the pool's prices do not touch it."""

    price_per_minute: int
    max_minutes: int
    runs: int = 1
    fee_percent: int = 0

    @property
    def amount(self) -> int:
        """The most that the task can cost. Raises InvalidInputError when that is more than there can be."""
        if self.max_minutes < 1:
            raise InvalidInputError(f"max_minutes must be 1 or more, not {self.max_minutes}")
        amount = self.price_per_minute * self.max_minutes * self.runs
        if not 1 <= amount <= MAX_CPT:
            raise InvalidInputError(
                f"{self.max_minutes} minutes of this task at {self.price_per_minute} CPT a minute cost more "
                "CPT than there can be; ask for less"
            )
        return amount

    @property
    def memo(self) -> str:
        runs = "" if self.runs == 1 else f", {self.runs} runs"
        fee = "" if self.fee_percent == 0 else f", fee {self.fee_percent} %"
        return f"up to {self.max_minutes} min at {self.price_per_minute} CPT a minute{runs}{fee}"


@dataclass(frozen=True, slots=True)
class RunShare:
    """What one provider's run brings in: to the provider, and to the pool."""

    payment: int
    fee: int


@dataclass(frozen=True, slots=True)
class Bill:
    """How a hold is divided at its end: one part for each share, and what goes back."""

    parts: tuple[RunShare, ...]
    released: int

    @property
    def charged(self) -> int:
        return sum(part.payment + part.fee for part in self.parts)


def bill(held: int, *, price_per_minute: int, minutes: int, fee_percent: int, shares: Sequence[int]) -> Bill:
    """`minutes` are those to be paid, of all runs together. Never more than what is held is paid."""
    charged = min(held, price_per_minute * max(0, minutes)) if shares else 0
    parts = []
    for amount in split(charged, shares):
        fee = fee_of(amount, fee_percent)
        parts.append(RunShare(amount - fee, fee))
    return Bill(tuple(parts), held - charged)


def fee_of(amount: int, fee_percent: int) -> int:
    """Rounded down, in the provider's favour."""
    return amount * fee_percent // _PERCENT


def split(amount: int, shares: Sequence[int]) -> tuple[int, ...]:
    """The amount in these proportions, to the last CPT.

    What rounding down leaves goes, one by one, to those who lost most by it; of equal ones to the first.
    """
    if any(share < 0 for share in shares):
        raise InvalidInputError("a share cannot be below 0")
    whole = sum(shares)
    if whole == 0:
        if amount and shares:
            raise InvalidInputError("shares of 0 cannot divide anything")
        return (0,) * len(shares)
    parts = [amount * share // whole for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda index: -(amount * shares[index] % whole))
    for index in by_remainder[: amount - sum(parts)]:
        parts[index] += 1
    return tuple(parts)


def minutes_to_pay(
    outcome: Outcome,
    started_at: float | None,
    ended_at: float,
    max_minutes: int,
    *,
    ran: float | None = None,
) -> int:
    """Minutes that an attempt with this outcome began; 0 where nothing is paid. `ran`: its seconds (see
    run_time), where they were measured.

    A run that ended by itself was work, and so was one until its owner stopped it. One that was lost or
    refused brought nothing, and one that was stopped before it began did nothing.
    """
    if started_at is None or outcome in {Outcome.LOST, Outcome.REFUSED}:
        return 0
    seconds = ended_at - started_at if ran is None else ran
    return min(max_minutes, started_minutes(round(seconds * _MILLISECONDS)))


def earned(
    price_per_minute: int, fee_percent: int, started_at: float | None, now: float, max_minutes: int
) -> int:
    """What a run that ended now would bring its node's owner."""
    minutes = minutes_to_pay(Outcome.SUCCEEDED, started_at, now, max_minutes)
    amount = price_per_minute * minutes
    return amount - fee_of(amount, fee_percent)
