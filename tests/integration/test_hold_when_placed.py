"""Tasks that hold their price when they are first placed: in SQL, in the placement loop, in the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import select, update

from nodepool.domain.ends.attempt_end import End
from nodepool.domain.errors import NotEnoughCptError
from nodepool.domain.money import ledger
from nodepool.domain.money.ledger import EntryKind, NewEntry
from nodepool.domain.tasks.reasons import told
from nodepool.domain.tasks.states import Outcome, TaskState
from nodepool.settings import Settings
from nodepool.stores.sql import migrate, placements as placing, tasks as task_store
from nodepool.stores.sql.database import Connection, Database
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.tables import holds, tasks
from nodepool.workflows.attempt_end import end_in_sql
from tests.support.dispatchers import open_dispatcher
from tests.support.fleet import START, Fleet
from tests.support.migrations import alembic_to
from tests.support.money import add_deferring_task, add_held_task, add_payer, check_sums, hold_of, spendable
from tests.support.stores import add_node, add_user, place, placement
from tests.support.valkey import TestValkey

# 3 CPT a minute, ten minutes.
EACH = 30


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


def _somebody(database: Database, balance: int) -> int:
    def work(connection: Connection) -> int:
        user = add_payer(connection, grant=balance)
        add_node(connection, user, "n1", max_tasks=200)
        return user

    return database.write(work)


def test_placing_takes_the_hold_and_what_is_not_covered_waits(database: Database) -> None:
    user = _somebody(database, 2 * EACH + 1)
    ids = [
        database.write(lambda c: add_deferring_task(c, user, f"t{number}", fee_percent=10))  # noqa: B023
        for number in range(4)
    ]
    assert database.read(lambda c: spendable(c, user)) == 2 * EACH + 1
    done = database.write(lambda c: placing.place_all(c, [placement(it, "n1") for it in ids], 5.0))
    assert done == placing.Placed(frozenset(ids[:2]), frozenset(ids[2:]))
    assert database.read(lambda c: spendable(c, user)) == 1
    held = database.read(lambda c: hold_of(c, "t0"))
    assert (held.amount, held.fee_percent, held.state, held.created_at) == (EACH, 10, "held", 5.0)
    states = database.read(lambda c: [task_store.find(c, it).state for it in ids])
    assert states == ["PLACED", "PLACED", "QUEUED", "QUEUED"]
    assert database.read(ledger_store.verify) == []


def test_a_lost_attempt_keeps_the_hold_and_the_next_takes_none(database: Database) -> None:
    user = _somebody(database, EACH)
    database.write(lambda c: add_deferring_task(c, user, "t"))
    assert database.write(lambda c: place(c, "t", "n1"))
    lost = End(outcome=Outcome.LOST, exit_code=None, reason=told("gone"))
    settings = Settings()
    database.write(lambda c: end_in_sql(c, "t:1", "n1", user, lost, settings=settings, now=9.0))
    assert database.write(lambda c: place(c, "t", "n1", number=2, now=10.0))
    assert database.read(lambda c: hold_of(c, "t")).created_at == 1.0
    database.write(lambda c: task_store.claim_attempt(c, "t:2", "n1", user, 11.0))
    done = End(outcome=Outcome.SUCCEEDED, exit_code=0, reason=told(""))
    database.write(lambda c: end_in_sql(c, "t:2", "n1", user, done, settings=settings, now=12.0))
    database.read(check_sums)
    assert database.read(ledger_store.verify) == []


def test_one_that_is_stopped_before_it_was_placed_moves_nothing(database: Database) -> None:
    user = _somebody(database, 0)
    database.write(lambda c: add_deferring_task(c, user, "t"))
    database.write(lambda c: task_store.request_stop(c, "t", 2.0))
    assert database.read(lambda c: c.execute(select(holds)).all()) == []
    assert database.read(ledger_store.verify) == []


def test_a_placed_task_without_its_hold_is_found_by_verify(database: Database) -> None:
    user = _somebody(database, 0)
    database.write(lambda c: add_deferring_task(c, user, "t", attempt_number=1, state=TaskState.RUNNING))
    assert "task t has a price and never held it" in database.read(ledger_store.verify)


def test_two_dispatchers_and_a_transfer_spend_no_cpt_twice(database: Database) -> None:
    user = _somebody(database, 20 * EACH)
    friend = database.write(lambda c: add_payer(c, "friend", grant=0))
    ids = [f"t{number}" for number in range(40)]
    database.write(lambda c: [add_deferring_task(c, user, it) for it in ids])

    def spend(kind: int) -> None:
        for number in range(kind, 40, 4):
            wanted = [placement(ids[number], "n1")]
            try:
                database.write(lambda c: placing.place_all(c, wanted, 1.0))  # noqa: B023
            except NotEnoughCptError:
                database.write(lambda c: placing.place_all(c, wanted, 1.0, lock_ledger=True))  # noqa: B023

    def give() -> None:
        for number in range(10):
            entry = NewEntry(
                f"transfer:{number}", EntryKind.TRANSFER, ledger.user_account(user),
                ledger.user_account(friend), EACH,
            )  # fmt: skip
            try:
                database.write(lambda c: ledger_store.move(c, [entry], 1.0))  # noqa: B023
            except NotEnoughCptError:
                return

    with ThreadPoolExecutor(5) as threads:
        for done in [*(threads.submit(spend, kind) for kind in range(4)), threads.submit(give)]:
            done.result()
    placed = database.read(lambda c: len(task_store.live_attempts(c)))
    given = database.read(lambda c: spendable(c, friend))
    assert placed * EACH + given == 20 * EACH
    database.read(check_sums)
    assert database.read(ledger_store.verify) == []


@pytest.fixture
def pool(valkey: TestValkey, tmp_path: Path) -> Iterator[Fleet]:
    now = [START]
    with open_dispatcher(valkey, tmp_path, now) as dispatcher:
        yield Fleet(dispatcher, now, dispatcher.database.write(add_user))


def test_who_has_no_money_waits_with_that_reason_and_others_are_served(pool: Fleet) -> None:
    pool.node("n1", max_tasks=20)
    database = pool.dispatcher.database
    poor = database.write(lambda c: add_payer(c, "poor", grant=EACH))
    theirs = [
        database.write(lambda c: add_deferring_task(c, poor, created_at=START, queued_at=START))
        for _ in range(3)
    ]
    held = database.write(lambda c: add_held_task(c, poor, "cheap", max_minutes=1, price_per_minute=1))
    others = [pool.task() for _ in range(2)]
    # The held task took one CPT, so that none of the three is covered.
    assert pool.place(*theirs, held, *others) == 3
    assert pool.states(held, *others) == ["PLACED"] * 3
    rows = [pool.row(it) for it in theirs]
    assert {row.reason for row in rows} == {
        "waiting for CPT: 30 are set aside when it is placed, and its owner has less"
    }
    # Asked again nothing is written: what the reason says has not changed.
    before = [row.updated_at for row in rows]
    pool.now[0] += 100
    assert pool.place() == 0
    assert [pool.row(it).updated_at for it in theirs] == before


def test_money_that_comes_wakes_them_by_itself(pool: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_READ_SECONDS", "_READ_AGAIN_SECONDS"):
        monkeypatch.setattr(f"dispatcher.placing.spending_limits.{name}", 0.0)
    pool.node("n1", max_tasks=20)
    database = pool.dispatcher.database
    poor = database.write(lambda c: add_payer(c, "poor", grant=0))
    task = database.write(lambda c: add_deferring_task(c, poor, created_at=START, queued_at=START))
    assert pool.place(task) == 0
    mint = NewEntry("mint:1", EntryKind.GRANT, ledger.MINT, ledger.user_account(poor), EACH)
    database.write(lambda c: ledger_store.move(c, [mint], START))
    assert pool.place() == 1
    assert pool.row(task).reason == ""


def test_money_that_went_elsewhere_meanwhile_leaves_the_task_waiting(
    pool: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.node("n1", max_tasks=20)
    database = pool.dispatcher.database
    poor = database.write(lambda c: add_payer(c, "poor", grant=EACH))
    first, second = (
        database.write(lambda c: add_deferring_task(c, poor, created_at=START, queued_at=START))
        for _ in range(2)
    )
    # The picture of balances is as old as may be: it believes that there is money for both.
    asked: list[object] = []

    def affords(task: object) -> bool:
        asked.append(task)
        return len(asked) <= 2

    monkeypatch.setattr(pool.placement_loop.planner, "_affords", affords)
    assert pool.place(first, second) == 1
    assert pool.reserved("n1").tasks == 1
    database.read(check_sums)


def test_tasks_of_before_hold_as_they_did(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    migrate.migrate(database)
    alembic_to(database, command.downgrade, "0017")
    migrate.migrate(database)
    user = database.write(lambda c: add_payer(c, grant=100))
    database.write(lambda c: add_held_task(c, user, "t"))
    row = database.read(lambda c: c.execute(select(tasks)).one())
    assert (row.holds_when_placed, row.fee_percent, row.minutes_by_balance) == (False, 0, False)
    database.write(lambda c: c.execute(update(tasks).values(holds_when_placed=True)))
    database.close()
