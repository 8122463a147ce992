"""Forty writers at once, on SQLite and PostgreSQL: no update is lost, nobody owes, every hold ends once."""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select

from nodepool.domain.ends.attempt_end import End
from nodepool.domain.errors import NodePoolError, NotEnoughCptError
from nodepool.domain.money import ledger
from nodepool.domain.money.ledger import EntryKind, NewEntry
from nodepool.domain.tasks.reasons import told
from nodepool.domain.tasks.states import Outcome
from nodepool.settings import Settings
from nodepool.stores.sql import tasks as task_store
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.ledger.api import Provider
from nodepool.stores.sql.tables import holds
from nodepool.workflows import attempt_end
from tests.support.money import PRICE, add_held_task, add_payer, check_sums, hold_of, spendable
from tests.support.stores import add_node, migrated, place

WRITERS = 40
GRANT = 1000


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with migrated(database_url) as opened:
        yield opened


def _at_once(work: Callable[[int], Any], count: int = WRITERS) -> list[Any]:
    together = threading.Barrier(count)

    def run(number: int) -> Any:
        together.wait(60)
        return work(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


def _entry(name: str, sender: int, receiver: int, amount: int) -> NewEntry:
    return NewEntry(
        ledger.transfer_id(sender, name),
        EntryKind.TRANSFER,
        ledger.user_account(sender),
        ledger.user_account(receiver),
        amount,
    )


def _check(database: Database) -> None:
    database.read(check_sums)
    assert ledger_store.verify_database(database).problems == []


def test_more_than_there_is_from_forty_threads_takes_what_there_is(database: Database) -> None:
    ada, bob = (database.write(lambda c: add_payer(c, name)) for name in ("ada", "bob"))  # noqa: B023

    def pay(number: int) -> bool:
        entry = _entry(str(number), ada, bob, 100)
        try:
            return bool(database.write(lambda c: ledger_store.move(c, [entry], 1.0)))
        except NotEnoughCptError:
            return False

    assert Counter(_at_once(pay)) == {True: 10, False: 30}
    assert database.read(lambda c: (spendable(c, ada), spendable(c, bob))) == (0, 2 * GRANT)
    _check(database)


def test_forty_submits_at_once_hold_no_more_than_there_is(database: Database) -> None:
    ada = database.write(add_payer)

    def submit(number: int) -> bool:
        try:
            database.write(lambda c: add_held_task(c, ada, f"task{number}", max_minutes=100))
        except NotEnoughCptError:
            return False
        return True

    assert Counter(_at_once(submit)) == {True: 3, False: 37}
    assert database.read(lambda c: ledger_store.balance(c, ada)) == (GRANT - 900, 900)
    _check(database)


def test_the_same_transfer_and_the_same_end_from_forty_threads_happen_once(database: Database) -> None:
    ada, bob = (database.write(lambda c: add_payer(c, name)) for name in ("ada", "bob"))  # noqa: B023
    database.write(lambda c: add_held_task(c, ada, "task", state="SUCCEEDED"))

    def tell(_: int) -> tuple[bool, bool]:
        moved = database.write(lambda c: ledger_store.move(c, [_entry("x", ada, bob, 7)], 1.0))
        settled = database.write(lambda c: ledger_store.settle(c, "task", "task:1", [Provider(bob)], 2, 9.0))
        return bool(moved), settled.changed

    told = _at_once(tell)
    assert [sum(moved for moved, _ in told), sum(settled for _, settled in told)] == [1, 1]
    left = GRANT - 7 - 2 * PRICE
    assert database.read(lambda c: (spendable(c, ada), spendable(c, bob))) == (left, 2 * GRANT - left)
    _check(database)


def test_a_stop_a_finish_and_a_loss_at_once_end_the_task_and_its_hold_once(database: Database) -> None:
    settings = Settings.model_validate({"max_attempts": 1})
    owner = database.write(lambda c: add_payer(c, "ada"))
    provider = database.write(lambda c: add_payer(c, "bob", grant=0))
    database.write(lambda c: add_node(c, provider, "n1", max_tasks=100))
    paid = 0
    for number in range(6):
        task_id = database.write(lambda c: add_held_task(c, owner, f"task{number}"))  # noqa: B023
        database.write(lambda c: place(c, task_id, "n1"))  # noqa: B023
        database.write(lambda c: task_store.claim_attempt(c, f"{task_id}:1", "n1", provider, 10.0))  # noqa: B023

        def end(turn: int, task_id: str = task_id) -> str:
            outcome = (Outcome.SUCCEEDED, Outcome.FAILED, Outcome.LOST, Outcome.STOPPED)[turn % 4]
            the_end = End(outcome=outcome, exit_code=None, reason=told(""))
            try:
                if turn % 5 == 0:
                    database.write(lambda c: task_store.request_stop(c, task_id, 100.0))
                    return ""
                ended = database.write(
                    lambda c: attempt_end.end_in_sql(
                        c, f"{task_id}:1", "n1", provider, the_end, settings=settings, now=100.0
                    )
                )
            except NodePoolError:
                return ""
            return outcome if ended.changed else ""

        ends = [outcome for outcome in _at_once(end, 10) if outcome]
        assert len(ends) == 1
        hold = database.read(lambda c: hold_of(c, task_id))  # noqa: B023
        assert hold.state == ("voided" if ends == [Outcome.LOST] else "posted")
        paid += hold.posted
    assert database.read(lambda c: spendable(c, provider)) == paid
    _check(database)


class Mixed:
    """Transfers, submits and ends of many writers, and what they came to by their own account."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.users = [database.write(lambda c: add_payer(c, f"user{number}")) for number in range(8)]  # noqa: B023
        self.moved: Counter[int] = Counter()
        self._lock = threading.Lock()

    def count(self, changes: dict[int, int]) -> None:
        with self._lock:
            for user, change in changes.items():
                self.moved[user] += change

    def transfer(self, name: str) -> None:
        """Two threads make each of them, with the same contents: one of them counts."""
        dice = random.Random(name)
        (sender, receiver), amount = dice.sample(self.users, 2), dice.randint(1, 300)
        entry = _entry(name, sender, receiver, amount)
        if self.database.write(lambda c: ledger_store.move(c, [entry], 1.0)):
            self.count({sender: -amount, receiver: amount})

    def task(self, task_id: str) -> None:
        dice = random.Random(task_id)
        (sender, receiver), minutes = dice.sample(self.users, 2), dice.randint(1, 40)
        columns = {"max_minutes": minutes, "state": "SUCCEEDED"}
        self.database.write(lambda c: add_held_task(c, sender, task_id, fee_percent=10, **columns))
        posted, providers = dice.randint(0, minutes), [Provider(receiver)]
        for _ in range(2):
            settled = self.database.write(
                lambda c: ledger_store.settle(c, task_id, f"{task_id}:1", providers, posted, 9.0)
            )
            if settled.changed:
                payment = sum(part.payment for part in settled.bill.parts)
                self.count({sender: -settled.charged})
                self.count({receiver: payment})

    def work(self, number: int) -> None:
        for turn in range(12):
            with contextlib.suppress(NotEnoughCptError):
                if turn % 3:
                    self.transfer(f"{number // 2}-{turn}")
                else:
                    self.task(f"task-{number}-{turn}")


def test_forty_writers_of_everything_lose_no_update(database: Database) -> None:
    mixed = Mixed(database)
    _at_once(mixed.work)
    there = database.read(lambda c: {user: spendable(c, user) for user in mixed.users})
    assert there == {user: GRANT + mixed.moved[user] for user in mixed.users}
    states = set(database.read(lambda c: c.execute(select(holds.c.state)).scalars().all()))
    assert states == {"posted", "voided"}
    assert ledger_store.verify_database(database).entries > 300
    _check(database)
