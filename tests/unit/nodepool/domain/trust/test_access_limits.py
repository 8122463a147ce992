"""What a credit score allows: the table by tier, and what is told to whoever asks for more."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest

from nodepool.domain.errors import PermissionDeniedError
from nodepool.domain.tasks.states import DEFAULT_PRIORITY
from nodepool.domain.trust.access_limits import (
    LIMITS,
    as_pairs,
    check_access,
    limits_of,
    running_limit,
)
from nodepool.domain.trust.tiers import TIERS, Tier
from tests.support.environment import ROOT

TASK: dict[str, Any] = {
    "priority": DEFAULT_PRIORITY, "cpu_score": 1000, "memory_gb": 1, "gpu_score": 0, "gpu_memory_gb": 0,
    "max_minutes": 60, "network": False,
}  # fmt: skip


def test_more_trust_never_allows_less() -> None:
    rows = [dict(as_pairs(LIMITS[tier])) for tier in TIERS]
    for higher, lower in pairwise(rows):
        assert all(higher[name] >= lower[name] for name in higher)


def test_a_score_has_the_limits_of_the_tier_that_it_opens() -> None:
    assert limits_of(0) is limits_of(49) is LIMITS[Tier.LOW]
    assert limits_of(50) is limits_of(99) is LIMITS[Tier.NORMAL]
    assert limits_of(100) is limits_of(1000) is LIMITS[Tier.HIGH]


@pytest.mark.parametrize("score", [0, 49, 50, 100])
def test_a_plain_task_is_allowed_to_everybody(score: int) -> None:
    check_access(TASK, score)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"priority": 9}, ("priority 9", "priority 5 or less", "it takes 50")),
        ({"cpu_score": 4001}, ("cpu_score 4001", "cpu_score 4000 or less")),
        ({"memory_gb": 9}, ("memory_gb 9", "memory_gb 8 or less")),
        ({"gpu_score": 1}, ("gpu_score 1", "ask for none")),
        ({"gpu_memory_gb": 4}, ("gpu_memory_gb 4", "ask for none")),
        ({"max_minutes": 121}, ("max_minutes 121", "max_minutes 120 or less")),
        ({"replicas": 4}, ("replicas 4", "replicas 3 or less")),
        ({"network": True}, ("no network", "it takes 50")),
    ],
)
def test_whoever_asks_for_too_much_is_told_what_would_do(
    wish: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(PermissionDeniedError) as refused:
        check_access({**TASK, **wish}, 31)
    for word in ("31", *words):
        assert word in str(refused.value)
    check_access({**TASK, **wish}, 50)


def test_a_waiting_task_is_told_how_many_its_owner_may_run() -> None:
    head = "its owner has 5 tasks running, as many as a credit score"
    assert str(running_limit(5, Tier.LOW)) == f"{head} below 50 allows"
    assert str(running_limit(5, Tier.NORMAL)) == f"{head} below 100 allows"
    assert str(running_limit(5, Tier.HIGH)) == f"{head} of 100 or more allows"


def test_the_document_has_the_same_limits() -> None:
    text = (ROOT / "docs" / "money.md").read_text()
    table = text.split("<!-- credit limits -->")[1].split("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|", table, flags=re.MULTILINE)
    written = {
        name: {Tier.LOW: low, Tier.NORMAL: normal, Tier.HIGH: high} for name, low, normal, high in rows
    }
    names = dict(as_pairs(LIMITS[Tier.LOW]))
    assert set(written) == set(names)
    for name in names:
        for tier in TIERS:
            most = getattr(LIMITS[tier], name)
            word = written[name][tier]
            assert word == ("any" if most == getattr(LIMITS[Tier.HIGH], name) > 9 else str(most)), (
                name,
                tier,
            )
