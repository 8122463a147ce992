"""Patterns name what fnmatch would, in one look at each character."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given, strategies as st

from nodepool.domain.globs import Globs

PARTS = st.sampled_from(["a", "b", "/", ".", "*", "?", "[ab]", "[!a]", "[a-c]", "[", "]", "亞"])


@given(
    st.lists(st.lists(PARTS, min_size=1, max_size=8).map("".join), min_size=1, max_size=4),
    st.text("abc/.[]亞", max_size=12),
)
def test_it_is_what_fnmatch_would_say(patterns: list[str], name: str) -> None:
    wanted = any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    assert Globs(patterns).matches(name) is wanted


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("*a" * 99 + "*b", "a" * 1000),
        ("*" * 199 + "b", "a" * 1000),
        ("*?" * 99 + "b", "a" * 1000),
        ("*[a-z]" * 33 + "b", "a" * 1000),
    ],
)
def test_no_pattern_looks_at_a_character_twice(pattern: str, name: str) -> None:
    globs = Globs([pattern] * 32)
    assert not globs.matches(name)
    assert globs.steps == len(name)


def test_a_name_that_cannot_match_any_more_is_left() -> None:
    globs = Globs(["out/*.csv", "log?"])
    assert not globs.matches("x" * 1000)
    assert globs.steps == 1
    assert [globs.matches(name) for name in ("out/a/b.csv", "log1", "log", "out/")] == [
        True,
        True,
        False,
        False,
    ]
