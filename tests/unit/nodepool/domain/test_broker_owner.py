"""Whose broker it is, by the mark in it and by the nodes that it has."""

from __future__ import annotations

import pytest

from nodepool.domain.broker_owner import BrokerOwner, owner_of, refusal


@pytest.mark.parametrize(
    ("mark", "has_nodes", "knows_nodes", "owner"),
    [
        ("ours", True, False, BrokerOwner.OURS),  # after FLUSHALL of SQL's nodes, or before they are written
        ("other", True, True, BrokerOwner.ANOTHER),  # two pools may have nodes of one name
        ("other", False, False, BrokerOwner.ANOTHER),
        ("", False, False, BrokerOwner.NOBODY),  # new, emptied, replaced
        ("", True, True, BrokerOwner.NOBODY),  # of a version before marks
        ("", True, False, BrokerOwner.ANOTHER),
    ],
)
def test_the_mark_tells_and_without_one_the_nodes(
    mark: str, owner: BrokerOwner, *, has_nodes: bool, knows_nodes: bool
) -> None:
    assert owner_of(mark, "ours", has_nodes=has_nodes, knows_nodes=knows_nodes) is owner


def test_the_refusal_says_what_to_do() -> None:
    words = refusal("a" * 32, "b" * 32)
    assert "aaaaaaaa" in words
    assert "bbbbbbbb" in words
    assert "a" * 9 not in words
    assert "hivemind admin broker take" in words
    assert "never heard of" in refusal("", "b" * 32)
