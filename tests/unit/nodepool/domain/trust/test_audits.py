"""When results of low-trust nodes are checked, what a finding changes, and that lying does not pay."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, strategies as st

from nodepool.domain.trust.audits import (
    FIRST_PAUSE_SECONDS,
    FORGIVEN_AFTER,
    MOST_BLOCK_SECONDS,
    MOST_BLOCK_SIZE,
    MOST_STRIKES,
    NEWCOMER_CHECKS,
    TRUSTED_AFTER,
    BlockEnd,
    NodeRecord,
    OwnerRecord,
    Rules,
    after_finding,
    audit_share,
    block_end,
    block_size,
    draw,
    fair_minutes,
    first_record,
    holds_back,
    is_full,
    is_trusted,
    one_at_a_time,
    pause_seconds,
    pays_recalled,
    that_count,
)
from nodepool.domain.trust.voting import Finding

RULES = Rules()
CLEAN = OwnerRecord()
NODES = st.builds(NodeRecord, verified=st.integers(0, 20_000), paused_until=st.floats(0, 1e9))
OWNERS = st.builds(OwnerRecord, strikes=st.integers(0, MOST_STRIKES), clean=st.integers(0, 20_000))
SHARES = st.floats(0.0001, 1)


def node(verified: int) -> NodeRecord:
    return NodeRecord(verified=verified)


def after(
    findings: str, owner: OwnerRecord = CLEAN, record: NodeRecord | None = None
) -> tuple[NodeRecord, OwnerRecord]:
    """`v` verified, `d` differed, one after the other at time 0."""
    record = record or NodeRecord()
    for letter in findings:
        change = after_finding(record, owner, Finding.VERIFIED if letter == "v" else Finding.DIFFERED, 0.0)
        record, owner = change.node, change.owner
    return record, owner


def test_everything_of_a_newcomer_is_checked_and_kept_back_until_it_is() -> None:
    assert [block_size(node(verified), CLEAN, RULES) for verified in range(NEWCOMER_CHECKS + 1)] == [1] * 11
    assert holds_back(1)
    assert not holds_back(2)


def test_blocks_grow_from_the_audit_share_to_its_least() -> None:
    assert block_size(node(TRUSTED_AFTER), CLEAN, RULES) == 10
    assert block_size(node(2 * TRUSTED_AFTER), CLEAN, RULES) == 40
    assert block_size(node(1_000_000), CLEAN, RULES) == 100


@pytest.mark.parametrize("size", [2, 93, 99, 100, 245, 999])
def test_the_least_share_is_reached_exactly(size: int) -> None:
    rules = Rules(audit_share=1.0, audit_share_least=1 / size)
    assert block_size(node(1_000_000), CLEAN, rules) == size


@given(NODES, OWNERS, SHARES, SHARES)
def test_a_node_is_audited_less_with_its_row_and_never_never(
    record: NodeRecord, owner: OwnerRecord, share: float, least: float
) -> None:
    rules = Rules(audit_share=share, audit_share_least=least)
    now, later = (block_size(node(record.verified + more), owner, rules) for more in (0, 1))
    assert 1 <= now <= later <= MOST_BLOCK_SIZE
    assert audit_share(record, owner, rules) >= min(share, least, 1 / MOST_BLOCK_SIZE)
    struck = OwnerRecord(strikes=min(owner.strikes + 1, MOST_STRIKES))
    assert block_size(record, struck, rules) <= now


def test_a_share_of_zero_turns_audits_off() -> None:
    assert block_size(node(0), CLEAN, Rules(audit_share=0, audit_share_least=0)) == 0
    assert block_size(node(0), CLEAN, Rules(audit_share=0.1, audit_share_least=0)) == 1


def test_trust_takes_a_row_and_each_strike_doubles_the_way() -> None:
    assert not is_trusted(node(TRUSTED_AFTER - 1), CLEAN)
    assert is_trusted(node(TRUSTED_AFTER), CLEAN)
    assert not is_trusted(node(2 * TRUSTED_AFTER - 1), OwnerRecord(strikes=1))
    assert is_trusted(node(2 * TRUSTED_AFTER), OwnerRecord(strikes=1))


def test_one_at_a_time_until_trusted_where_others_are() -> None:
    assert one_at_a_time(trusted=False, trusted_others=True)
    assert not one_at_a_time(trusted=False, trusted_others=False)
    assert not one_at_a_time(trusted=True, trusted_others=True)


def test_a_result_that_differs_takes_the_node_to_the_start_and_strikes_the_owner() -> None:
    change = after_finding(node(500), CLEAN, Finding.DIFFERED, 1000.0)
    assert change.node == NodeRecord(verified=0, paused_until=1000.0 + FIRST_PAUSE_SECONDS)
    assert (change.owner, change.struck, change.lenient) == (OwnerRecord(strikes=1), True, False)


def test_pauses_double_up_to_a_bound() -> None:
    pauses = [pause_seconds(OwnerRecord(strikes=strikes)) for strikes in range(4)]
    assert pauses == [0, FIRST_PAUSE_SECONDS, 2 * FIRST_PAUSE_SECONDS, 4 * FIRST_PAUSE_SECONDS]
    _, owner = after("d" * 20)
    assert owner.strikes == MOST_STRIKES


def test_a_new_node_id_does_not_shorten_the_pause() -> None:
    owner = OwnerRecord(strikes=3)
    assert first_record(owner, 50.0) == NodeRecord(paused_until=50.0 + pause_seconds(owner))
    assert first_record(CLEAN, 50.0) == NodeRecord()


def test_a_strike_is_forgiven_after_a_clean_row_that_doubles() -> None:
    _, owner = after("v" * (FORGIVEN_AFTER - 1), OwnerRecord(strikes=1))
    assert owner.strikes == 1
    assert after("v", owner)[1] == CLEAN
    _, owner = after("v" * (2 * FORGIVEN_AFTER - 1), OwnerRecord(strikes=2))
    assert owner.strikes == 2
    assert after("v", owner)[1] == OwnerRecord(strikes=1)


@pytest.mark.parametrize("strikes", range(1, MOST_STRIKES + 1))
def test_who_lies_as_soon_as_he_is_trusted_is_never_forgiven(strikes: int) -> None:
    owner = OwnerRecord(strikes=strikes)
    record, owner = after("v" * (TRUSTED_AFTER << strikes), owner)
    assert is_trusted(record, owner)
    assert owner.strikes == strikes


def test_one_error_of_an_owner_with_a_record_is_met_with_lenience() -> None:
    record, owner = after("v" * FORGIVEN_AFTER)
    change = after_finding(record, owner, Finding.DIFFERED, 1000.0)
    assert change.lenient
    assert change.node == NodeRecord()  # no pause, but checked again from the start
    assert change.owner == OwnerRecord(strikes=1)
    # The next one soon after is met with none.
    record, owner = after("v" * (FORGIVEN_AFTER - 1), change.owner, change.node)
    assert not after_finding(record, owner, Finding.DIFFERED, 2000.0).lenient


def test_an_owner_with_strikes_finds_no_lenience_however_clean_his_row() -> None:
    owner = OwnerRecord(strikes=3, clean=FORGIVEN_AFTER + 1)
    assert not after_finding(node(5000), owner, Finding.DIFFERED, 0.0).lenient


def test_an_honest_node_recovers_from_an_error() -> None:
    record, owner = after("v" * 300 + "d" + "v" * (FORGIVEN_AFTER - 1))
    assert is_trusted(record, owner)
    assert after("v", owner, record)[1].strikes == 0


def test_the_recalled_runs_of_a_lenient_case_are_paid_where_they_were_right() -> None:
    assert [pays_recalled(lenient=a, confirmed=b) for a in (True, False) for b in (True, False)] == [
        True,
        False,
        False,
        False,
    ]


@given(NODES, OWNERS)
def test_an_undecided_comparison_changes_nothing(record: NodeRecord, owner: OwnerRecord) -> None:
    change = after_finding(record, owner, Finding.UNDECIDED, 1e9)
    assert (change.node, change.owner, change.struck) == (record, owner, False)


@given(st.text("vd", max_size=60), OWNERS)
def test_records_stay_within_bounds(findings: str, owner: OwnerRecord) -> None:
    record, owner = after(findings, owner)
    assert 0 <= owner.strikes <= MOST_STRIKES
    assert record.verified == len(findings) - (findings.rfind("d") + 1)
    assert (record.paused_until > 0) <= ("d" in findings)


def test_a_block_is_full_by_number_or_by_time() -> None:
    assert not is_full(10, 9, 0.0, 5.0)
    assert is_full(10, 10, 0.0, 5.0)
    assert is_full(10, 1, 0.0, MOST_BLOCK_SECONDS)
    assert not is_full(10, 0, 0.0, MOST_BLOCK_SECONDS)


def test_what_a_finding_makes_of_a_block() -> None:
    assert block_end(Finding.VERIFIED) is BlockEnd.RELEASE
    assert block_end(Finding.DIFFERED) is BlockEnd.RECALL
    assert block_end(Finding.UNDECIDED) is BlockEnd.DRAW_AGAIN


@given(st.integers(1, 200), st.data())
def test_lying_about_any_part_of_a_block_earns_less_than_honesty(size: int, data: st.DataObject) -> None:
    """Over all draws, each as likely as the others: a lie costs on average what it is paid, or more."""
    lies = data.draw(st.sets(st.integers(0, size - 1), min_size=1), label="which are lies")
    results = [str(index) for index in range(size)]
    drawn = [draw(results, (index + 0.5) / size) for index in range(size)]
    assert drawn == results  # every result is drawn by an equal part of the tickets
    passed = sum(int(result) not in lies for result in drawn)
    assert Fraction(passed * size, size) <= size - len(lies)


@given(st.floats(0, 1), st.integers(1, 1000))
def test_every_ticket_draws_something(ticket: float, size: int) -> None:
    results = [str(index) for index in range(size)]
    assert draw(results, ticket) in results


# -- what counts ----------------------------------------------------------------------------------------
R, D, U = Finding.VERIFIED, Finding.DIFFERED, Finding.UNDECIDED


def pairs(*of: tuple[int, int]) -> frozenset[frozenset[int]]:
    return frozenset(frozenset(pair) for pair in of)


@pytest.mark.parametrize(
    ("findings", "related", "told"),
    [
        ({1: R, 2: R}, (), {1: R, 2: R}),
        ({1: R, 2: R}, ((1, 2),), {1: U, 2: U}),
        # Of three who agree, one stranger confirms both friends, and they the stranger.
        ({1: R, 2: R, 3: R}, ((1, 2),), {1: R, 2: R, 3: R}),
        ({1: D, 2: R, 3: R}, (), {1: D, 2: R, 3: R}),
        ({1: D, 2: R, 3: R}, ((2, 3),), {1: U, 2: U, 3: U}),
        ({1: D, 2: R, 3: R, 4: R}, ((2, 3),), {1: D, 2: R, 3: R, 4: R}),
        ({1: U, 2: U}, (), {1: U, 2: U}),
    ],
)
def test_friends_say_nothing_of_each_other_and_of_nobody_else(
    findings: dict[int, Finding], related: tuple[tuple[int, int], ...], told: dict[int, Finding]
) -> None:
    assert that_count(findings, pairs(*related), raises=True, lowers=True) == told


def test_where_too_few_could_be_asked_nothing_is_said() -> None:
    findings = {1: D, 2: R, 3: R}
    assert that_count(findings, (), raises=False, lowers=True) == {1: D, 2: U, 3: U}
    assert that_count(findings, (), raises=False, lowers=False) == {1: U, 2: U, 3: U}


@pytest.mark.parametrize(
    ("own", "others", "paid"),
    [(1, [1], 1), (3, [1], 3), (4, [1], 3), (50, [2], 5), (50, [2, 20], 41), (50, [], 50), (2, [9], 2)],
)
def test_a_run_is_paid_twice_the_minutes_of_its_check_and_one_at_the_most(
    own: int, others: list[int], paid: int
) -> None:
    assert fair_minutes(own, others) == paid
