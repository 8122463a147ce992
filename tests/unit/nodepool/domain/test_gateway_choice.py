"""Which gateway is spoken to, with time and chance in the test's hands."""

from __future__ import annotations

import pytest

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.gateway_choice import (
    LOOK_AGAIN_SECONDS,
    MAX_GATEWAYS,
    GatewayChoice,
    gateway_addresses,
)

CERTAIN = 0.999


def test_addresses_come_in_order_and_once() -> None:
    assert gateway_addresses(["a:1, b:2", "[::1]:3,a:1"]) == ("a:1", "b:2", "[::1]:3")


@pytest.mark.parametrize("words", [[], [""], [","], ["a"], ["a:1,b"], ["a:1;b:2"], ["ipv4:a:1"]])
def test_what_is_no_list_of_addresses_is_told(words: list[str]) -> None:
    with pytest.raises(InvalidInputError, match="HOST:PORT"):
        gateway_addresses(words)


def test_a_list_has_a_bound() -> None:
    with pytest.raises(InvalidInputError, match="more than the 16"):
        gateway_addresses(f"a:{port}" for port in range(1, MAX_GATEWAYS + 2))


def test_what_works_is_kept_and_what_fails_is_left_for_the_one_that_failed_longest_ago() -> None:
    choice = GatewayChoice(["a", "b", "c"])
    seen = []
    for now in range(6):
        seen.append(choice.current)
        choice.failed(now, 0.0)
    assert "".join(seen) == "abcabc"
    choice.worked()
    choice.failed(6, 0.0)
    assert choice.current == "b"


def test_each_is_tried_before_anybody_waits() -> None:
    choice = GatewayChoice(["a", "b", "c"])
    assert [choice.failed(now, 0.0) for now in range(6)] == [True, True, False, True, True, False]
    assert not GatewayChoice(["a"]).failed(0, 0.0)


def test_some_time_after_a_failure_chance_decides_once_more() -> None:
    choice = GatewayChoice(["a", "b"])
    assert not choice.look_again(10**9, 0.0)
    choice.failed(0, 0.5)
    choice.worked()
    assert not choice.look_again(LOOK_AGAIN_SECONDS * 1.5 - 1, 0.0)
    assert choice.look_again(LOOK_AGAIN_SECONDS * 1.5, 0.0)
    assert choice.current == "a"
    assert not choice.look_again(10**9, CERTAIN)


def test_one_that_failed_a_moment_ago_is_not_looked_at() -> None:
    choice = GatewayChoice(["a", "b", "c"])
    choice.failed(0, 0.0)
    choice.worked()
    choice._failed_at["c"] = LOOK_AGAIN_SECONDS - 1
    assert choice.look_again(LOOK_AGAIN_SECONDS, 0.0)
    assert choice.current == "a"
    choice = GatewayChoice(["a", "b"])
    choice.failed(0, 0.0)
    choice.worked()
    assert not choice.look_again(LOOK_AGAIN_SECONDS, CERTAIN)
    assert choice.current == "b"
