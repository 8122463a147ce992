"""What the end of an attempt pays: the transaction that ends it, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nodepool.domain.ends.attempt_end import End
from nodepool.domain.errors import StaleAttemptError, StateConflictError
from nodepool.domain.tasks.reasons import told
from nodepool.domain.tasks.states import Outcome, TaskState
from nodepool.settings import Settings
from nodepool.stores.sql import tasks as task_store
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.workflows import attempt_end
from nodepool.workflows.attempt_end import Ended
from tests.support.money import PRICE, account, add_held_task, add_payer, check_sums, hold_of, spendable
from tests.support.stores import add_node, migrated, place

GRANT, MINUTES = 1000, 10
START = 1000.0


class Run:
    """A task of ada's, placed on bob's node; `claim`, `end` and `stop` at the times that a test says."""

    def __init__(self, database: Database, *, fee_percent: int = 0) -> None:
        self.database = database
        self.ada = database.write(lambda c: add_payer(c, "ada", grant=GRANT))
        self.bob = database.write(lambda c: add_payer(c, "bob", grant=0))
        database.write(lambda c: add_node(c, self.bob, "n1"))
        self.task_id = database.write(
            lambda c: add_held_task(
                c, self.ada, "task", max_minutes=MINUTES, fee_percent=fee_percent, created_at=START
            )
        )
        self.place()

    def place(self, number: int = 1) -> None:
        assert self.database.write(lambda c: place(c, "task", "n1", number=number, now=START))

    def claim(self, number: int = 1, *, at: float = START) -> None:
        self.database.write(lambda c: task_store.claim_attempt(c, f"task:{number}", "n1", self.bob, at))

    def end(
        self, outcome: Outcome, number: int = 1, *, at: float, blameless: bool = False, fee_percent: int = 0
    ) -> Ended:
        settings = Settings.model_validate(
            {"max_attempts": 2, "platform_fee_percent": fee_percent, "audit_share": 0}
        )
        end = End(outcome=outcome, exit_code=None, reason=told("it ended"), blameless=blameless)
        return self.database.write(
            lambda c: attempt_end.end_in_sql(
                c, f"task:{number}", "n1", self.bob, end, settings=settings, now=at
            )
        )

    def stop(self, *, at: float) -> None:
        self.database.write(lambda c: task_store.request_stop(c, "task", at))

    def money(self) -> tuple[int, int]:
        """What ada has spent for good, and what bob has earned."""
        self.database.read(check_sums)
        assert ledger_store.verify_database(self.database).problems == []
        balance, held = self.database.read(lambda c: ledger_store.balance(c, self.ada))
        return GRANT - balance - held, self.database.read(lambda c: spendable(c, self.bob))

    def hold_state(self) -> str:
        return str(self.database.read(lambda c: hold_of(c, "task")).state)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with migrated(database_url) as opened:
        yield opened


@pytest.fixture
def run(database: Database) -> Run:
    return Run(database)


@pytest.mark.parametrize("outcome", [Outcome.SUCCEEDED, Outcome.FAILED])
def test_work_is_paid_by_the_started_minute_whether_it_succeeded_or_not(run: Run, outcome: Outcome) -> None:
    run.claim()
    assert run.money() == (0, 0)
    run.end(outcome, at=START + 61)
    assert run.money() == (2 * PRICE, 2 * PRICE)


def test_a_stopped_run_is_paid_what_it_began(run: Run) -> None:
    run.claim()
    run.stop(at=START + 100)
    assert run.hold_state() == "held"
    run.end(Outcome.STOPPED, at=START + 130)
    assert run.money() == (3 * PRICE, 3 * PRICE)


def test_a_task_that_is_stopped_before_it_runs_costs_nothing(run: Run) -> None:
    run.stop(at=START + 1)
    run.end(Outcome.STOPPED, at=START + 1000)
    assert (run.money(), run.hold_state()) == ((0, 0), "voided")


def test_a_task_that_is_stopped_while_it_waits_gives_its_hold_back_at_once(run: Run) -> None:
    run.claim()
    run.end(Outcome.LOST, at=START + 100)
    run.stop(at=START + 101)
    assert (run.money(), run.hold_state()) == ((0, 0), "voided")


@pytest.mark.parametrize("outcome", [Outcome.LOST, Outcome.REFUSED])
def test_a_run_that_came_to_nothing_is_not_paid_and_the_task_keeps_its_hold(
    run: Run, outcome: Outcome
) -> None:
    run.claim()
    assert run.end(outcome, at=START + 500).state is TaskState.QUEUED
    assert (run.money(), run.hold_state()) == ((0, 0), "held")
    run.place(2)
    run.claim(2, at=START + 1000)
    run.end(Outcome.SUCCEEDED, 2, at=START + 1010)
    # The time that the first one took is nobody's.
    assert run.money() == (PRICE, PRICE)


def test_an_evicted_run_is_not_paid(run: Run) -> None:
    run.claim()
    run.end(Outcome.LOST, at=START + 500, blameless=True)
    assert (run.money(), run.hold_state()) == ((0, 0), "held")


def test_a_task_that_is_given_up_gives_all_of_its_hold_back(run: Run) -> None:
    run.claim()
    run.end(Outcome.LOST, at=START + 10)
    run.place(2)
    run.claim(2)
    assert run.end(Outcome.LOST, 2, at=START + 90).state is TaskState.FAILED
    assert (run.money(), run.hold_state()) == ((0, 0), "voided")


def test_a_stopped_task_whose_run_is_lost_costs_nothing(run: Run) -> None:
    run.claim()
    run.stop(at=START + 100)
    assert run.end(Outcome.LOST, at=START + 130).state is TaskState.STOPPED
    assert (run.money(), run.hold_state()) == ((0, 0), "voided")


def test_nobody_earns_more_than_the_bound_however_late_the_end_is_told(run: Run) -> None:
    run.claim()
    run.end(Outcome.SUCCEEDED, at=START + 100_000)
    assert run.money() == (MINUTES * PRICE, MINUTES * PRICE)


def test_a_finish_is_paid_once_and_what_comes_after_the_end_changes_nothing(run: Run) -> None:
    run.claim()
    run.end(Outcome.SUCCEEDED, at=START + 30)
    assert not run.end(Outcome.SUCCEEDED, at=START + 500).changed
    for outcome in (Outcome.FAILED, Outcome.LOST, Outcome.STOPPED):
        with pytest.raises(StaleAttemptError):
            run.end(outcome, at=START + 500)
    run.stop(at=START + 501)
    assert run.money() == (PRICE, PRICE)


def test_a_finish_after_a_stop_is_paid_like_any_other(run: Run) -> None:
    run.claim()
    run.stop(at=START + 10)
    run.end(Outcome.SUCCEEDED, at=START + 20)
    assert run.money() == (PRICE, PRICE)


def test_a_finish_of_a_lost_attempt_is_stale_and_pays_nothing(run: Run) -> None:
    run.claim()
    run.end(Outcome.LOST, at=START + 10)
    for outcome in Outcome:
        with pytest.raises(StaleAttemptError):
            run.end(outcome, at=START + 20)
    run.place(2)
    run.claim(2)
    with pytest.raises(StaleAttemptError):
        run.end(Outcome.SUCCEEDED, at=START + 30)
    assert (run.money(), run.hold_state()) == ((0, 0), "held")


def test_an_end_of_what_was_never_claimed_is_refused_and_pays_nothing(run: Run) -> None:
    with pytest.raises(StateConflictError):
        run.end(Outcome.SUCCEEDED, at=START + 10)
    assert (run.money(), run.hold_state()) == ((0, 0), "held")


def test_the_fee_that_was_agreed_counts_whatever_the_setting_says_later(database: Database) -> None:
    run = Run(database, fee_percent=10)
    run.claim()
    run.end(Outcome.SUCCEEDED, at=START + 9 * 60 + 1, fee_percent=50)
    assert run.money() == (30, 27)
    assert database.read(lambda c: account(c, "fee")) == 3
