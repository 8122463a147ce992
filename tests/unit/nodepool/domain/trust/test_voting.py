"""How runs are compared: majorities of different owners, ties, strangers, and who may check."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from nodepool.domain.trust.tiers import Tier
from nodepool.domain.trust.voting import (
    MOST_VOTES,
    MOST_VOTES_OVER_REPLICAS,
    Checker,
    Count,
    Finding,
    Verdict,
    Vote,
    count_votes,
    may_check,
)


def votes_of(*words: str) -> list[Vote]:
    """`a` is a trusted owner's vote for a, `a?` a stranger's; each of another owner."""
    return [
        Vote(run_id=f"run{index}", owner_id=index, digest=word.rstrip("?"), trusted=not word.endswith("?"))
        for index, word in enumerate(words)
    ]


def findings(count: Count) -> list[Finding]:
    return [count.findings[run_id] for run_id in sorted(count.findings)]


VERIFIED, DIFFERED, UNDECIDED = Finding.VERIFIED, Finding.DIFFERED, Finding.UNDECIDED


def test_two_that_agree_are_enough_where_one_is_trusted() -> None:
    count = count_votes(votes_of("a?", "a"))
    assert (count.verdict, count.digest, findings(count)) == (Verdict.AGREED, "a", [VERIFIED, VERIFIED])


def test_the_word_of_two_strangers_needs_a_third() -> None:
    assert count_votes(votes_of("a?", "a?")) == Count(verdict=Verdict.MORE, wanted=1)
    assert count_votes(votes_of("a?", "a?", "a?")).verdict is Verdict.AGREED
    # Nor do they outvote a trusted one.
    assert count_votes(votes_of("a?", "b", "a?")).verdict is Verdict.MORE


def test_a_tie_gets_one_more_and_the_majority_wins() -> None:
    assert count_votes(votes_of("a", "b")) == Count(verdict=Verdict.MORE, wanted=1)
    count = count_votes(votes_of("a", "b", "b"))
    assert (count.digest, findings(count)) == ("b", [DIFFERED, VERIFIED, VERIFIED])


def test_there_are_as_many_runs_as_the_user_asked_for() -> None:
    assert count_votes(votes_of("a", "a"), replicas=5) == Count(verdict=Verdict.MORE, wanted=3)
    assert count_votes(votes_of("a", "a", "b", "a", "a"), replicas=5).digest == "a"


def test_four_that_are_divided_equally_get_a_fifth() -> None:
    assert count_votes(votes_of("a", "b", "a", "b"), replicas=4).wanted == 1
    assert count_votes(votes_of("a", "b", "a", "b", "b"), replicas=4).digest == "b"


def test_five_replicas_that_are_divided_get_two_more_at_most() -> None:
    assert count_votes(votes_of("a", "b", "a", "b", "c"), replicas=5).wanted == 1
    assert count_votes(votes_of("a", "b", "a", "b", "c", "d"), replicas=5).wanted == 1
    assert count_votes(votes_of("a", "b", "a", "b", "c", "d", "e"), replicas=5).verdict is Verdict.UNDECIDED


def test_answers_that_are_all_different_say_nothing_of_the_nodes() -> None:
    count = count_votes(votes_of(*"abcde"))
    assert (count.verdict, count.digest) == (Verdict.UNDECIDED, "")
    assert findings(count) == [UNDECIDED] * 5


def test_two_trusted_dissenters_are_not_blamed() -> None:
    count = count_votes(votes_of("a", "b", "c", "c"))
    assert (count.digest, findings(count)) == ("c", [UNDECIDED, UNDECIDED, VERIFIED, VERIFIED])


def test_strangers_who_differ_are_blamed_however_many_they_are() -> None:
    count = count_votes(votes_of("a?", "b?", "c", "c"))
    assert findings(count) == [DIFFERED, DIFFERED, VERIFIED, VERIFIED]


def test_of_one_owner_only_the_first_vote_counts() -> None:
    votes = [
        Vote(run_id="run0", owner_id=1, digest="a", trusted=True),
        Vote(run_id="run1", owner_id=1, digest="b", trusted=True),
        Vote(run_id="run2", owner_id=2, digest="b", trusted=True),
    ]
    assert count_votes(votes).verdict is Verdict.MORE
    count = count_votes([*votes, Vote(run_id="run3", owner_id=3, digest="b", trusted=True)])
    assert (count.digest, findings(count)) == ("b", [DIFFERED, UNDECIDED, VERIFIED, VERIFIED])


def test_one_owner_alone_never_agrees_with_himself() -> None:
    votes = [Vote(run_id=f"run{index}", owner_id=1, digest="a", trusted=True) for index in range(9)]
    assert count_votes(votes) == Count(verdict=Verdict.MORE, wanted=1)


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        (("a?", "a?"), Verdict.AGREED),
        (("a", "b"), Verdict.UNDECIDED),
        (("a",), Verdict.UNDECIDED),
        ((), Verdict.UNDECIDED),
        (("a", "b", "b"), Verdict.AGREED),
    ],
)
def test_where_nobody_is_left_to_ask_what_there_is_decides(words: tuple[str, ...], verdict: Verdict) -> None:
    assert count_votes(votes_of(*words), no_more=True).verdict is verdict


VOTES = st.lists(
    st.builds(
        Vote,
        run_id=st.uuids().map(str),
        owner_id=st.integers(1, 6),
        digest=st.sampled_from("abc"),
        trusted=st.booleans(),
    ),
    max_size=9,
    unique_by=lambda vote: vote.run_id,
)


@given(votes=VOTES, replicas=st.integers(1, 5), no_more=st.booleans())
def test_every_count_is_open_with_runs_to_add_or_final_with_a_finding_for_each(
    *, votes: list[Vote], replicas: int, no_more: bool
) -> None:
    count = count_votes(votes, replicas=replicas, no_more=no_more)
    owners = {vote.owner_id for vote in votes}
    if count.verdict is Verdict.MORE:
        assert not no_more
        assert count.wanted >= 1
        assert not count.findings
        assert len(owners) + count.wanted <= max(MOST_VOTES, replicas + MOST_VOTES_OVER_REPLICAS)
        return
    assert set(count.findings) == {vote.run_id for vote in votes}
    agreed = {vote.owner_id for vote in votes if count.findings[vote.run_id] is VERIFIED}
    assert (len(agreed) >= 2) == (count.verdict is Verdict.AGREED)
    for vote in votes:
        if count.findings[vote.run_id] is VERIFIED:
            assert vote.digest == count.digest
        if count.findings[vote.run_id] is DIFFERED:
            assert vote.digest != count.digest
    assert len(agreed) == sum(finding is VERIFIED for finding in count.findings.values())


def checker(node_id: str, owner_id: int, tier: Tier = Tier.LOW, *, trusted: bool = False) -> Checker:
    return Checker(node_id=node_id, owner_id=owner_id, tier=tier, trusted=trusted)


STRANGER, KNOWN = checker("stranger", 1), checker("known", 2, trusted=True)
NORMAL, FRIEND = checker("normal", 3, Tier.NORMAL), checker("friend", 4, trusted=True)


def test_trusted_nodes_of_other_owners_check() -> None:
    assert may_check([STRANGER, KNOWN, NORMAL, FRIEND], {4}, disputed=False) == [KNOWN, NORMAL]


def test_a_dispute_is_settled_above_the_lowest_tier_where_there_is_somebody() -> None:
    assert may_check([STRANGER, KNOWN, NORMAL], {4}, disputed=True) == [NORMAL]
    assert may_check([STRANGER, KNOWN], {4}, disputed=True) == [KNOWN]


def test_strangers_check_where_there_is_nobody_else_and_owners_never_check_themselves() -> None:
    assert may_check([STRANGER, FRIEND], {4}, disputed=False) == [STRANGER]
    assert may_check([FRIEND], {4}, disputed=True) == []
