"""How many calls and how many bytes one account, one address and strangers may have at once."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from gateway.admission.message_memory import LEAST_BYTES, MemoryBudget
from gateway.admission.open_calls import CallLimits, OpenCalls
from gateway.usecases.announced_package import Announced
from nodepool.domain.errors import InvalidInputError, RateLimitedError

MIB = 1 << 20


def _calls() -> OpenCalls:
    return OpenCalls(CallLimits(in_all=40, per_address=16, per_account=3, streams_per_account=1))


def test_strangers_of_one_address_have_a_quarter_of_it_and_others_go_on() -> None:
    calls = _calls()
    with ExitStack() as open_calls:
        for _ in range(4):
            open_calls.enter_context(calls.ticket("peer", "10.0.0.1", stream=False)).is_strangers()
        with calls.ticket("peer", "10.0.0.1", stream=False) as one_more:
            with pytest.raises(RateLimitedError, match="try again"):
                one_more.is_strangers()
            one_more.is_of(7)
        open_calls.enter_context(calls.ticket("peer", "10.0.0.2", stream=False)).is_strangers()
    assert not any(calls.count(kind) for kind in ("all", "strangers"))


def test_a_call_that_turns_out_to_be_somebodys_is_no_strangers_any_more() -> None:
    calls = _calls()
    with calls.ticket("peer", "10.0.0.1", stream=True) as ticket:
        ticket.is_strangers()
        ticket.is_of(7)
        assert (calls.count("strangers"), calls.count("account", "7")) == (0, 1)
        with calls.ticket("peer", "10.0.0.1", stream=True) as another, pytest.raises(RateLimitedError):
            another.is_of(7)
    assert calls.count("account", "7") == calls.count("account streams", "7") == 0


def test_one_account_has_half_of_the_memory_or_one_thing() -> None:
    budget = MemoryBudget(10 * MIB)
    with budget.hold(1, 8 * MIB):
        for account in (1, 2):
            with pytest.raises(RateLimitedError), budget.hold(account, 3 * MIB):
                pass
        with budget.hold(1, LEAST_BYTES - 1), budget.hold(2, 2 * MIB):
            assert budget.held_bytes == 10 * MIB
    with budget.hold(3, 50 * MIB):
        pass
    assert budget.held_bytes == 0


@pytest.mark.parametrize(
    ("size", "sha256", "words"),
    [
        (-1, "", "package_bytes"),
        (4, "", "more came"),
        (6, "", "only 5"),
        (0, "x", "hex"),
        (5, "0" * 64, "sha"),
    ],
)
def test_what_is_not_as_announced_is_refused(size: int, sha256: str, words: str) -> None:
    def upload() -> None:
        announced = Announced(size, sha256)
        announced.take(b"01234")
        announced.check_whole()

    with pytest.raises(InvalidInputError, match=words):
        upload()
