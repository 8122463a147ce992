"""Regions: the words that clients send become slugs that queues are named by."""

from __future__ import annotations

import pytest

from nodepool.domain import regions
from nodepool.domain.errors import InvalidInputError


@pytest.mark.parametrize(
    ("word", "slug"),
    [
        ("亞洲", "asia"),
        ("非洲", "africa"),
        ("北美", "north-america"),
        ("南美", "south-america"),
        ("歐洲", "europe"),
        ("大洋洲", "oceania"),
        ("Unknown", "unknown"),
        (" asia ", "asia"),
        ("NORTH AMERICA", "north-america"),
        ("north-america", "north-america"),
    ],
)
def test_a_word_has_the_same_slug_for_tasks_and_nodes(word: str, slug: str) -> None:
    assert regions.task_region(word) == regions.node_region(word) == slug


@pytest.mark.parametrize("word", ["", " ", "Any", "any", "ANY"])
def test_a_task_without_a_wish_may_go_anywhere(word: str) -> None:
    assert regions.task_region(word) == regions.ANY


def test_a_node_without_a_region_is_unknown_and_none_is_everywhere() -> None:
    assert regions.node_region("  ") == regions.UNKNOWN
    with pytest.raises(InvalidInputError):
        regions.node_region("Any")


@pytest.mark.parametrize("word", ["Mars", "asia\0", "asia.high", "x" * 10_000])
def test_other_words_are_refused_in_a_short_sentence(word: str) -> None:
    for read in (regions.task_region, regions.node_region):
        with pytest.raises(InvalidInputError, match="use Any or one of") as refused:
            read(word)
        assert len(str(refused.value)) < 300


def test_every_region_is_a_safe_part_of_a_queues_name() -> None:
    assert all(slug.replace("-", "").isalpha() and slug.isascii() for slug in regions.TASK_REGIONS)
    assert set(regions.TASK_REGIONS) == {*regions.NODE_REGIONS, regions.ANY}
