"""Ids that are allowed, and the names made from them."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from nodepool.domain import ids
from nodepool.domain.errors import InvalidInputError

UNSAFE = set("/\\*?[]{}:~&%()\"' \t\r\n\0")


@pytest.mark.parametrize("task_id", ["a", "0", "task_1.x-Y", "a" * 128])
def test_good_task_ids(task_id: str) -> None:
    assert ids.check_task_id(task_id) == task_id


@pytest.mark.parametrize(
    "task_id",
    ["", ".", "..", "-a", "_a", "a/b", "../a", "a b", "a:1", "a\n", "\0", "a*", "é", "任務", "a" * 129],
)
def test_bad_task_ids(task_id: str) -> None:
    with pytest.raises(InvalidInputError, match="task_id must be"):
        ids.check_task_id(task_id)


@pytest.mark.parametrize(
    "node_id", ["n", "user/node", "user@example.com/my-gpu+1", "節點", "a" * 64, f"{'a' * 64}/{'b' * 64}"]
)
def test_good_node_ids(node_id: str) -> None:
    assert ids.check_node_id(node_id) == node_id


@pytest.mark.parametrize(
    "node_id",
    [
        *("", "/", "a/", "/a", "a/b/c", "..", "../a", "a/..", "a b", "a*", "a?", "a[b]", "a:b"),
        *("a\n", "a)(", "~a", "a\0", "a" * 65, f"a/{'b' * 65}", "a\u3164b", "a\u202eb", "a\u200bb"),
    ],
)
def test_bad_node_ids(node_id: str) -> None:
    with pytest.raises(InvalidInputError, match="node_id must be"):
        ids.check_node_id(node_id)


@given(st.text(max_size=140))
def test_no_accepted_id_has_a_character_that_means_something_elsewhere(text: str) -> None:
    for check, allowed in ((ids.check_task_id, set[str]()), (ids.check_node_id, {"/"})):
        try:
            check(text)
        except InvalidInputError:
            continue
        assert not (set(text) & (UNSAFE - allowed))
        assert not text.startswith(".")


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True), st.integers(1, 100))
def test_a_run_names_its_task_and_nobody_can_choose_its_id(task_id: str, number: int) -> None:
    run = ids.run_id(task_id, number)
    assert (ids.parent_of(run), ids.run_number(run), ids.shown_task(run)) == (task_id, number, task_id)
    assert (ids.parent_of(task_id), ids.run_number(task_id), ids.shown_task(task_id)) == ("", 0, task_id)
    with pytest.raises(InvalidInputError):
        ids.check_task_id(run)


def test_broker_users_differ_and_hold_nothing_of_the_node_id() -> None:
    names = {ids.broker_user(node_id) for node_id in ("a", "A", "a/b", "節點")}
    assert len(names) == 4
    assert all(name.isascii() and name.replace("-", "").isalnum() for name in names)
