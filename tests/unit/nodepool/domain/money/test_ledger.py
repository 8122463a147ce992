"""The ledger's arithmetic: nothing is made or lost by rounding, and nothing leaves 64 bits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.money import ledger
from nodepool.domain.money.ledger import MAX_CPT, EntryKind, NewEntry, Posted, PriceTerms
from nodepool.domain.tasks.states import Outcome

ENTRY = NewEntry("transfer:1:x", EntryKind.TRANSFER, "user:1", "user:2", 5, "task", "a note")
POSTED = Posted(7, ENTRY, 10, 20, 1000.5)

amounts = st.integers(0, MAX_CPT)
shares = st.lists(st.integers(0, 10**6), min_size=1, max_size=5).filter(any)


@given(amounts, shares)
def test_shares_add_up_to_the_amount_and_are_fair_to_one_cpt(amount: int, parts: list[int]) -> None:
    split = ledger.split(amount, parts)
    assert sum(split) == amount
    for got, share in zip(split, parts, strict=True):
        assert abs(got - amount * share // sum(parts)) <= 1
        assert got == 0 or share > 0


def test_what_rounding_leaves_goes_to_those_who_lost_most_by_it() -> None:
    assert ledger.split(10, [1, 1, 1]) == (4, 3, 3)
    assert ledger.split(7, [5, 1, 1]) == (5, 1, 1)
    assert ledger.split(1, [1, 2]) == (0, 1)
    assert ledger.split(0, [1, 2]) == (0, 0)
    assert ledger.split(0, []) == ()


def test_shares_that_divide_nothing_are_refused() -> None:
    with pytest.raises(InvalidInputError):
        ledger.split(5, [0, 0])
    with pytest.raises(InvalidInputError):
        ledger.split(5, [2, -1])


@given(
    held=st.integers(1, MAX_CPT),
    price=st.integers(1, 10**12),
    minutes=st.integers(-5, 10**7),
    fee=st.integers(0, 50),
    parts=st.one_of(st.just([]), shares),
)
def test_a_bill_divides_all_of_the_hold_and_never_more(
    held: int, price: int, minutes: int, fee: int, parts: list[int]
) -> None:
    bill = ledger.bill(held, price_per_minute=price, minutes=minutes, fee_percent=fee, shares=parts)
    assert bill.charged + bill.released == held
    assert bill.charged == (min(held, price * max(0, minutes)) if parts else 0)
    for part in bill.parts:
        whole = part.payment + part.fee
        assert part.payment >= 0
        assert part.fee == whole * fee // 100


def test_a_fee_is_rounded_down_for_the_provider() -> None:
    assert [ledger.fee_of(amount, 10) for amount in (1, 9, 10, 19, 20)] == [0, 0, 1, 1, 2]
    assert ledger.fee_of(MAX_CPT, 0) == 0


@pytest.mark.parametrize("amount", [0, -1, MAX_CPT + 1, 1 << 62, 1 << 63, -(1 << 63)])
def test_amounts_that_are_none_are_refused(amount: int) -> None:
    with pytest.raises(InvalidInputError):
        ledger.check_entry(replace(ENTRY, amount=amount))


def test_a_movement_has_two_accounts_an_id_and_a_short_note() -> None:
    ledger.check_entry(replace(ENTRY, amount=MAX_CPT))
    for wrong in (
        replace(ENTRY, credit=ENTRY.debit),
        replace(ENTRY, id=""),
        replace(ENTRY, id="x" * 301),
        replace(ENTRY, memo="x" * 501),
    ):
        with pytest.raises(InvalidInputError):
            ledger.check_entry(wrong)


def test_terms_that_cost_more_than_there_can_be_are_refused() -> None:
    assert PriceTerms(3, 60, 2).amount == 360
    with pytest.raises(InvalidInputError):
        PriceTerms(MAX_CPT, 2).amount  # noqa: B018
    with pytest.raises(InvalidInputError):
        PriceTerms(1, 0).amount  # noqa: B018


OTHERS = [
    replace(POSTED, seq=8),
    replace(POSTED, debit_balance=11),
    replace(POSTED, credit_balance=21),
    replace(POSTED, created_at=1000.5000000001),
    *(
        replace(POSTED, entry=replace(ENTRY, **{name: value}))
        for name, value in {
            "id": "transfer:1:y",
            "kind": EntryKind.GRANT,
            "debit": "user:3",
            "credit": "user:3",
            "amount": 6,
            "task_id": "task2",
            "memo": "another",
        }.items()
    ),
    # The same text, cut elsewhere.
    replace(POSTED, entry=replace(ENTRY, task_id="tas", memo="ka note")),
]


@pytest.mark.parametrize("other", OTHERS)
def test_every_part_of_an_entry_is_in_its_hash(other: Posted) -> None:
    assert ledger.entry_hash(ledger.GENESIS, other) != ledger.entry_hash(ledger.GENESIS, POSTED)


def test_a_hash_depends_on_the_one_before_and_never_changes() -> None:
    assert ledger.entry_hash("1" * 64, POSTED) != ledger.entry_hash(ledger.GENESIS, POSTED)
    # Ledgers exist that were written with this.
    assert ledger.entry_hash(ledger.GENESIS, POSTED) == HASH_OF_POSTED


HASH_OF_POSTED = "682be6bfa22c81bd5a1ffc7c01df0eade5d8876e69a4abe6403a9528f931a69b"


MINUTES = [
    # outcome, started, ended, most, minutes to pay
    (Outcome.SUCCEEDED, 100.0, 100.0, 60, 1),
    (Outcome.SUCCEEDED, 100.0, 160.0, 60, 1),
    (Outcome.SUCCEEDED, 100.0, 160.2, 60, 2),
    (Outcome.FAILED, 100.0, 221.0, 60, 3),
    (Outcome.STOPPED, 100.0, 130.0, 60, 1),
    (Outcome.SUCCEEDED, 100.0, 9999.0, 5, 5),
    (Outcome.SUCCEEDED, 100.0, 50.0, 60, 1),  # the clock was set back
    (Outcome.STOPPED, None, 130.0, 60, 0),
    (Outcome.LOST, 100.0, 200.0, 60, 0),
    (Outcome.REFUSED, 100.0, 200.0, 60, 0),
]


@pytest.mark.parametrize(("outcome", "started", "ended", "most", "expected"), MINUTES)
def test_what_was_begun_is_paid_and_what_came_to_nothing_is_not(
    outcome: Outcome, started: float | None, ended: float, most: int, expected: int
) -> None:
    assert ledger.minutes_to_pay(outcome, started, ended, most) == expected


def test_what_a_run_has_earned_so_far() -> None:
    assert ledger.earned(10, 10, 0.0, 61.0, 60) == 18
    assert ledger.earned(10, 10, 0.0, 1e6, 60) == 540
    assert ledger.earned(10, 0, None, 61.0, 60) == 0
