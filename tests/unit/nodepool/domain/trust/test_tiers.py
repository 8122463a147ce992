"""Trust tiers by score, and which tier opens which."""

from __future__ import annotations

import pytest

from nodepool.domain.trust.tiers import RANK, TIERS, Tier, docker_works, node_tier, opens, task_tier

SCORES = [(-5, Tier.LOW), (0, Tier.LOW), (49, Tier.LOW), (50, Tier.NORMAL), (99, Tier.NORMAL)]
SCORES += [(100, Tier.HIGH), (1000, Tier.HIGH)]


@pytest.mark.parametrize(("score", "tier"), SCORES)
def test_a_score_opens_a_tier(score: int, tier: Tier) -> None:
    assert task_tier(score) is tier
    assert node_tier(score, docker_works=True) is tier
    assert node_tier(score, docker_works=False) is Tier.LOW


def test_a_tier_opens_itself_and_those_below() -> None:
    assert TIERS == (Tier.HIGH, Tier.NORMAL, Tier.LOW)
    opened = {task: [node for node in TIERS if opens(task, node)] for task in TIERS}
    assert opened == {task: list(TIERS[RANK[task] :]) for task in TIERS}


@pytest.mark.parametrize("word", ["running", " Running ", "available", "OK", "true", "yes", "enabled"])
def test_words_for_a_docker_that_works(word: str) -> None:
    assert docker_works(word)


@pytest.mark.parametrize("word", ["", "unavailable", "not running", "false", "no", "stopped", "0"])
def test_any_other_word_is_no_docker(word: str) -> None:
    assert not docker_works(word)
