"""What a run is paid for: as its node measured it, and never more than the pool saw."""

from __future__ import annotations

import math

import pytest

from nodepool.domain.ends.attempt_end import (
    AttemptEndSnapshot,
    End,
    EndingAttempt,
    EndingNode,
    EndingTask,
    EndRules,
    Tickets,
    decide,
)
from nodepool.domain.money import ledger
from nodepool.domain.money.run_time import paid_seconds, seen_seconds
from nodepool.domain.money.settlement import Hold
from nodepool.domain.tasks.reasons import NO_REASON
from nodepool.domain.tasks.states import Outcome

NOW, PRICE = 1000.0, 3
LONG = Hold(task_id="t", account_id=ledger.user_account(1), amount=600 * PRICE, price_per_minute=PRICE)


@pytest.mark.parametrize(
    ("told", "seen", "paid"),
    [(0.15, 11.0, 0.15), (15.0, 1215.0, 15.0), (1e9, 61.0, 61.0), (None, 61.0, 61.0), (-5.0, 61.0, 61.0)],
)
def test_what_a_node_tells_counts_up_to_what_the_pool_saw(
    told: float | None, seen: float, paid: float
) -> None:
    assert paid_seconds(told, seen) == paid


@pytest.mark.parametrize("nonsense", [math.nan, math.inf, -math.inf])
def test_nonsense_is_as_if_nothing_had_been_told(nonsense: float) -> None:
    assert paid_seconds(nonsense, 61.0) == 61.0


def test_what_one_process_measured_counts_more_than_dates() -> None:
    assert seen_seconds(NOW - 1200, NOW, 15.0) == 15.0
    assert seen_seconds(NOW + 3600, NOW, 15.0) == 15.0
    assert seen_seconds(NOW + 3600, NOW, None) == 0.0


def minutes(claimed_ago: float, **measured: float) -> int:
    run = EndingAttempt(
        id="a",
        task=EndingTask(id="t", owner_id=1),
        node=EndingNode(id="n", owner_id=2),
        started_at=NOW - claimed_ago,
    )
    end = End(outcome=Outcome.SUCCEEDED, exit_code=0, reason=NO_REASON, **measured)
    effects = decide(
        AttemptEndSnapshot(attempt=run, hold=LONG), end, EndRules(), NOW, Tickets(draw=0.0, spot=1.0)
    )
    assert effects.settlement is not None
    return effects.settlement.bill.charged // PRICE


def test_the_bill_knows_no_jump_of_any_clock() -> None:
    # The gateway's clock was set 20 minutes ahead while it ran for 15 s; then an hour back.
    assert minutes(1215, run_seconds=15.0, measured_seconds=15.4) == 1
    assert minutes(-3600, run_seconds=75.0, measured_seconds=76.0) == 2
    # An agent that does not tell: as the pool measured it.
    assert minutes(1215, measured_seconds=15.4) == 1
    # One that lies: not more than there was.
    assert minutes(61, run_seconds=3600.0, measured_seconds=61.0) == 2
    # A gateway that was started since has only the pool's time; packing and sending are not paid.
    assert minutes(130, run_seconds=0.15) == 1
