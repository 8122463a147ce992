"""When a result that is being checked is given to the owner of its task."""

from __future__ import annotations

import pytest

from nodepool.domain.trust.holding_back import (
    CHECKER_PATIENCE_SECONDS,
    MOST_HELD_SECONDS,
    held_back_until,
    waits_longer,
)

NOW = 1000.0


@pytest.mark.parametrize(
    ("block_size", "take_pending", "checkers", "is_held"),
    [
        (1, False, 1, True),
        (1, True, 1, False),  # its owner does not want to wait
        (1, False, 0, False),  # nobody could check it
        (2, False, 1, False),  # its node is known a little
        (0, False, 1, False),  # nothing is checked here
    ],
)
def test_what_is_held_back(*, block_size: int, take_pending: bool, checkers: int, is_held: bool) -> None:
    until = held_back_until(block_size, take_pending=take_pending, checkers=checkers, now=NOW)
    assert until == (NOW + MOST_HELD_SECONDS if is_held else 0)


def test_it_waits_for_a_check_that_has_a_node_and_a_while_for_one_that_has_none() -> None:
    until = NOW + MOST_HELD_SECONDS
    late = NOW + CHECKER_PATIENCE_SECONDS
    assert waits_longer(until, without_checker_since=NOW, now=late - 1)
    assert not waits_longer(until, without_checker_since=NOW, now=late)
    assert waits_longer(until, without_checker_since=None, now=late)
    # The second check, because the first two differ, has its own while.
    assert waits_longer(until, without_checker_since=late, now=late + 1)


def test_nothing_is_held_back_for_more_than_a_day() -> None:
    until = NOW + MOST_HELD_SECONDS
    assert waits_longer(until, without_checker_since=None, now=until - 1)
    assert not waits_longer(until, without_checker_since=None, now=until)
    assert not waits_longer(until, without_checker_since=until - 1, now=until)
