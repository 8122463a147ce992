"""A task that is tried again: in SQL, in the ledger, in the sweep and in the placement loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import select, update

from dispatcher.sweep.retry_waits import RetryWaits
from nodepool.domain.ends.attempt_end import End
from nodepool.domain.errors import StaleAttemptError
from nodepool.domain.tasks.reasons import ReasonCode, told
from nodepool.domain.tasks.states import Outcome, TaskState
from nodepool.settings import Settings
from nodepool.stores.sql import migrate, placements as placing, retries as retry_store, tasks as task_store
from nodepool.stores.sql.database import Connection, Database
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.tables import ledger_entries, tasks
from nodepool.stores.sql.task_rows import WholeTask
from nodepool.workflows.attempt_end import Ended, end_in_sql
from tests.support.dispatchers import open_dispatcher
from tests.support.fleet import START, Fleet
from tests.support.migrations import alembic_to
from tests.support.money import PRICE, add_held_task, add_payer, check_sums, spendable
from tests.support.stores import add_node, add_task, attempt_of, place, placement
from tests.support.valkey import TestValkey

GRANT, EACH = 100, 10 * PRICE


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


class Task:
    """Ada's, tried on bob's node, a minute and a second each time."""

    def __init__(self, database: Database, *, grant: int = GRANT, **columns: object) -> None:
        self.database = database
        self.ada = database.write(lambda c: add_payer(c, "ada", grant=grant))
        self.bob = database.write(lambda c: add_payer(c, "bob", grant=0))
        database.write(lambda c: add_node(c, self.bob, "n1"))
        columns = {"retries": 2, "backoff_seconds": 30, **columns}
        database.write(lambda c: add_held_task(c, self.ada, "t", fee_percent=10, **columns))

    def row(self) -> WholeTask:
        return self.database.read(lambda c: task_store.find(c, "t"))

    def place(self, number: int, *, at: float) -> bool:
        return self.database.write(lambda c: place(c, "t", "n1", number=number, now=at))

    def run(self, number: int, *, at: float) -> None:
        assert self.place(number, at=at)
        self.database.write(lambda c: task_store.claim_attempt(c, f"t:{number}", "n1", self.bob, at))

    def end(self, number: int, *, at: float, exit_code: int = 75) -> Ended:
        outcome = Outcome.FAILED if exit_code else Outcome.SUCCEEDED
        end = End(outcome=outcome, exit_code=exit_code, reason=told(f"exit code {exit_code}"), output_bytes=1)
        settings = Settings.model_validate({"audit_share": 0})
        return self.database.write(
            lambda c: end_in_sql(c, f"t:{number}", "n1", self.bob, end, settings=settings, now=at)
        )

    def wake(self, *, at: float) -> retry_store.Woken:
        return self.database.write(lambda c: retry_store.wake(c, at, 10))

    def balances(self) -> tuple[int, int]:
        return (
            self.database.read(lambda c: spendable(c, self.ada)),
            self.database.read(lambda c: spendable(c, self.bob)),
        )

    def check(self) -> None:
        self.database.read(check_sums)
        assert self.database.read(ledger_store.verify) == []


def test_each_try_is_held_paid_and_told_and_nobody_gets_it_before_its_time(database: Database) -> None:
    task = Task(database)
    task.run(1, at=100.0)
    assert task.end(1, at=161.0).state is TaskState.QUEUED
    row = task.row()
    assert (row.state, row.tries_failed, row.wait_until, row.hold_again) == ("QUEUED", 1, 191.0, 6)
    assert (row.hold_amount, row.hold_posted, row.hold_state) == (EACH, 6, "held")
    # The fee is rounded down.
    assert task.balances() == (GRANT - EACH, 6)
    task.check()
    # Too early for everybody.
    assert not task.place(2, at=170.0)
    assert task.wake(at=190.0) == retry_store.Woken((), 191.0)
    woken = task.wake(at=191.0)
    assert ([it.id for it in woken.tasks], woken.next_at) == (["t"], None)
    assert task.wake(at=191.0).tasks == ()
    task.run(2, at=192.0)
    row = task.row()
    assert (row.hold_again, row.hold_amount, row.queued_at) == (0, EACH + 6, 191.0)
    assert task.balances() == (GRANT - EACH - 6, 6)
    task.check()
    task.end(2, at=200.0, exit_code=0)
    row = task.row()
    assert (row.state, row.tries_failed, row.exit_code, row.attempt_number) == ("SUCCEEDED", 1, 0, 2)
    assert (row.hold_state, row.hold_posted) == ("posted", 9)
    assert task.balances() == (GRANT - 9, 9)
    task.check()
    kinds = select(ledger_entries.c.id).where(ledger_entries.c.task_id == "t").order_by(ledger_entries.c.seq)
    assert database.read(lambda c: c.execute(kinds).scalars().all()) == [
        "hold:t", "pay:t:1", "hold:t:2", "pay:t:2", "release:t",
    ]  # fmt: skip


def test_when_no_try_is_left_it_has_failed_and_says_how_often(database: Database) -> None:
    task = Task(database)
    for number in (1, 2, 3):
        at = 1000.0 * number
        task.run(number, at=at)
        task.end(number, at=at + 10)
        task.wake(at=at + 999)
    row = task.row()
    assert (row.state, row.exit_code, row.tries_failed) == ("FAILED", 75, 3)
    assert row.reason == "failed in each of 3 tries; the last: exit code 75"
    assert task.balances() == (GRANT - 9, 9)
    task.check()


def test_an_end_that_is_told_twice_pays_once(database: Database) -> None:
    task = Task(database)
    task.run(1, at=100.0)
    task.end(1, at=161.0)
    assert not task.end(1, at=162.0).changed
    task.wake(at=200.0)
    task.run(2, at=200.0)
    with pytest.raises(StaleAttemptError):
        task.end(1, at=201.0)
    assert task.balances()[1] == 6
    task.check()


@pytest.mark.parametrize("is_due", [False, True])
def test_one_that_is_stopped_while_it_waits_is_over_at_once(database: Database, is_due: bool) -> None:  # noqa: FBT001
    task = Task(database, max_minutes=2)
    task.run(1, at=100.0)
    task.end(1, at=161.0)
    if is_due:
        task.wake(at=200.0)
    database.write(lambda c: task_store.request_stop(c, "t", 201.0))
    row = task.row()
    # The try took all that was held, and nothing is left to give back.
    assert (row.state, row.wait_until, row.hold_state, row.hold_posted) == ("STOPPED", 0, "posted", 6)
    assert task.wake(at=10**6) == retry_store.Woken((), None)
    assert not task.place(2, at=300.0)
    assert task.balances() == (GRANT - 6, 6)
    task.check()


def test_who_cannot_set_the_price_aside_again_waits_for_money(database: Database) -> None:
    task = Task(database, grant=EACH)
    task.run(1, at=100.0)
    task.end(1, at=161.0)
    task.wake(at=200.0)
    done = database.write(lambda c: placing.place_all(c, [placement("t", "n1", number=2)], 200.0))
    assert done == placing.Placed(frozenset(), frozenset({"t"}))
    assert (task.row().state, task.row().hold_again) == ("QUEUED", 6)
    task.check()


def test_a_wait_that_a_clock_made_long_is_over(database: Database) -> None:
    """The pool's time was set back by a day."""
    task = Task(database)
    task.run(1, at=100_000.0)
    task.end(1, at=100_061.0)
    assert [it.id for it in task.wake(at=13_661.0).tasks] == ["t"]


def test_another_node_comes_first_for_the_next_try(database: Database) -> None:
    task = Task(database)
    task.run(1, at=100.0)
    task.end(1, at=161.0)
    assert database.read(lambda c: placing.failed_nodes(c, ["t"])) == {"t": frozenset({"n1"})}


def test_a_look_costs_what_is_due_and_not_what_waits(database: Database) -> None:
    task = Task(database)

    def work(connection: Connection) -> None:
        for number in range(30):
            add_task(connection, task.ada, f"w{number:02}", wait_until=1000.0 + number)
        add_task(connection, task.ada, "never")

    database.write(work)
    woken = database.write(lambda c: retry_store.wake(c, 1004.0, 3))
    assert ({it.id for it in woken.tasks}, woken.next_at) == ({"w00", "w01", "w02"}, 1003.0)
    assert {it.id for it in database.read(lambda c: task_store.queued(c, 99))} == {
        "never", "t", "w00", "w01", "w02",
    }  # fmt: skip


def test_tasks_of_before_have_no_retries(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    migrate.migrate(database)
    ada = database.write(lambda c: add_payer(c, "ada", grant=GRANT))
    database.write(lambda c: add_held_task(c, ada, "t"))
    alembic_to(database, command.downgrade, "0021")
    migrate.migrate(database)
    row = database.read(lambda c: c.execute(select(tasks)).one())
    assert (row.retries, row.retry_on, row.tries_failed, row.wait_until, row.hold_again, row.resubmit_of) == (
        0, "", 0, 0, 0, "",
    )  # fmt: skip
    assert database.read(ledger_store.verify) == []
    database.close()


# -- the dispatcher -------------------------------------------------------------------------------------
@pytest.fixture
def pool(valkey: TestValkey, tmp_path: Path) -> Iterator[Fleet]:
    now = [START]
    with open_dispatcher(valkey, tmp_path, now) as dispatcher:
        yield Fleet(dispatcher, now, dispatcher.database.write(lambda c: add_payer(c, "owner", grant=1000)))


def _fail(pool: Fleet, task_id: str, exit_code: int = 75) -> None:
    """On its node, now."""
    database, now, row = pool.dispatcher.database, pool.now[0], pool.row(task_id)
    attempt = attempt_of(database, task_id)
    database.write(lambda c: task_store.claim_attempt(c, attempt, row.node_id, pool.owner_id, now))
    end = End(outcome=Outcome.FAILED, exit_code=exit_code, reason=told("it failed"), output_bytes=1)
    pool.dispatcher.lifecycle.end_attempt(attempt, row.node_id, pool.owner_id, end)


def test_the_sweep_lets_it_go_when_its_time_has_come_and_not_before(pool: Fleet) -> None:
    waits = RetryWaits(pool.dispatcher, pool.placement_loop)
    node = pool.node("n1")
    task = pool.task(retries=1, backoff_seconds=60)
    assert pool.place(task) == 1
    _fail(pool, task)
    pool.report(node)
    waits.look()
    assert (waits.anybody, waits.seconds_left()) == (True, 60.0)
    # Whoever hears of it finds that it does not wait for a node.
    assert pool.place(task) == 0
    pool.now[0] += 59
    waits.look()
    assert pool.place() == 0
    assert pool.row(task).reason.endswith("it is tried again")
    pool.now[0] += 1
    waits.look()
    assert (waits.anybody, waits.seconds_left()) == (False, float("inf"))
    pool.report(node)
    assert pool.place() == 1
    assert pool.row(task).attempt_number == 2
    _fail(pool, task)
    assert (pool.row(task).state, pool.row(task).tries_failed) == ("FAILED", 2)


def test_a_dispatcher_that_dies_between_failure_and_try_loses_nothing(
    valkey: TestValkey, tmp_path: Path
) -> None:
    """Nothing of the wait is anywhere but in SQL: another dispatcher, an empty Redis."""
    now = [START]
    with open_dispatcher(valkey, tmp_path, now) as first:
        owner = first.database.write(lambda c: add_payer(c, "owner", grant=1000))
        fleet = Fleet(first, now, owner)
        fleet.node("n1")
        task = fleet.task(retries=1, backoff_seconds=5)
        assert fleet.place(task) == 1
        _fail(fleet, task)
    valkey.emptied()
    now[0] += 5
    with open_dispatcher(valkey, tmp_path, now) as second:
        fleet = Fleet(second, now, owner)
        second.lifecycle.sync_node("n1")
        fleet.report("n1")
        for _ in range(2):
            RetryWaits(second, fleet.placement_loop).look()
        assert fleet.place() == 1
        assert fleet.place() == 0
        assert fleet.row(task).attempt_number == 2


def test_why_it_waits_is_the_try_and_then_the_nodes(pool: Fleet) -> None:
    pool.node("n1")
    task = pool.task(retries=3, backoff_seconds=5)
    assert pool.place(task) == 1
    _fail(pool, task)
    assert pool.row(task).reason == "try 1 of 4 failed (it failed); it is tried again"
    database = pool.dispatcher.database
    database.write(lambda c: c.execute(update(tasks).values(cpu_score=10**6)))
    pool.now[0] += 5
    RetryWaits(pool.dispatcher, pool.placement_loop).look()
    assert pool.place() == 0
    code = select(tasks.c.reason_code).where(tasks.c.id == task)
    assert database.read(lambda c: c.execute(code).scalar_one()) == ReasonCode.NO_NODE_EVER
