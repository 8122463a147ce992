"""Writes that share a transaction on PostgreSQL: which do, what one that fails takes with it, what several
gateways do to each other, and that nobody is answered before the COMMIT."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from nodepool.domain.ends.attempt_end import End
from nodepool.domain.errors import NotEnoughCptError, NotFoundError, StaleAttemptError
from nodepool.domain.money import ledger
from nodepool.domain.money.ledger import EntryKind, NewEntry
from nodepool.domain.tasks.reasons import told
from nodepool.domain.tasks.states import Outcome
from nodepool.settings import Settings
from nodepool.stores.sql import tasks as task_store
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.ledger import api as ledger_store, postings
from nodepool.stores.sql.ledger.api import TOGETHER
from nodepool.stores.sql.shared_writes import MOST
from nodepool.workflows import attempt_end
from tests.support.money import add_held_task, add_payer, spendable
from tests.support.stores import add_node, place
from tests.support.waiting import wait_until

pytestmark = pytest.mark.postgres
GRANT = 1000


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    with closing(Database(postgres_url)) as opened:
        yield opened


@contextmanager
def all_at_once(database: Database, works: list[Callable[[Connection], Any]]) -> Iterator[list[Future[Any]]]:
    """They come while another one is at work, and so go together after it."""
    begun, go = threading.Event(), threading.Event()

    def first(_: Connection) -> None:
        begun.set()
        assert go.wait(60)

    with ThreadPoolExecutor(len(works) + 1) as threads:
        leader = threads.submit(database.write, first, sharing=TOGETHER)
        assert begun.wait(60)
        shared = database._shared_writes(TOGETHER)
        futures = []
        for number, work in enumerate(works, 1):
            futures.append(threads.submit(database.write, work, sharing=TOGETHER))
            wait_until(lambda number=number: len(shared._waiting) == number, "it waits")  # type: ignore[misc]
        yield futures
        go.set()
        leader.result(60)


def together(database: Database, works: list[Callable[[Connection], Any]]) -> list[Any]:
    """What each gave, or its error."""
    with all_at_once(database, works) as futures:
        pass
    return [future.exception() or future.result() for future in futures]


def transaction(connection: Connection) -> int:
    return int(connection.execute(text("SELECT txid_current()")).scalar_one())


def entry(name: str, sender: int, receiver: int, amount: int) -> NewEntry:
    accounts = ledger.user_account(sender), ledger.user_account(receiver)
    return NewEntry(ledger.transfer_id(sender, name), EntryKind.TRANSFER, *accounts, amount)


def moving(*entries: NewEntry) -> Callable[[Connection], int]:
    return lambda c: len(ledger_store.move(c, entries, 1.0))


def people(database: Database, *names: str) -> list[int]:
    return [database.write(lambda c, name=name: add_payer(c, name)) for name in names]  # type: ignore[misc]


def is_right(database: Database) -> bool:
    assert ledger_store.verify_database(database).problems == []
    return True


def test_what_waits_shares_one_transaction_of_a_bounded_number(database: Database) -> None:
    found = together(database, [transaction] * (MOST + 5))
    assert sorted(Counter(found).values()) == [5, MOST]
    alone = [database.write(transaction, sharing=TOGETHER) for _ in range(2)]
    assert len({*found, *alone}) == 4


def test_of_two_in_one_transaction_the_lower_order_is_first(database: Database) -> None:
    done: list[int] = []
    begun, go = threading.Event(), threading.Event()

    def first(_: Connection) -> None:
        begun.set()
        assert go.wait(60)

    with ThreadPoolExecutor(6) as threads:
        threads.submit(database.write, first, sharing=TOGETHER)
        assert begun.wait(60)
        shared = database._shared_writes(TOGETHER)
        for number, order in enumerate((5, 0, 7, 3), 1):
            threads.submit(
                database.write, lambda _, order=order: done.append(order), sharing=TOGETHER, order=order
            )  # type: ignore[misc]
            wait_until(lambda number=number: len(shared._waiting) == number, "it waits")  # type: ignore[misc]
        go.set()
    assert done == [0, 3, 5, 7]


def test_one_that_fails_takes_nobody_with_it(database: Database) -> None:
    ada, bob = people(database, "ada", "bob")

    def moves_and_fails(connection: Connection) -> None:
        ledger_store.move(connection, [entry("lost", ada, bob, 5)], 1.0)
        raise NotFoundError("after it has moved")

    def breaks_a_rule(connection: Connection) -> None:
        ledger_store.move(connection, [entry("broken", ada, bob, 5)], 1.0)
        connection.execute(text("INSERT INTO storage_accounts (user_id) VALUES (-1)"))

    found = together(
        database,
        [
            moving(entry("1", ada, bob, 100)),
            moves_and_fails,
            moving(entry("2", ada, bob, 200)),
            breaks_a_rule,
            moving(entry("3", ada, bob, GRANT)),  # more than there is
            moving(entry("4", ada, bob, 50), entry("5", bob, ada, 10)),
            moving(entry("6", ada, 999_999, 1)),  # to nobody
        ],
    )
    kinds = [it if isinstance(it, int) else type(it) for it in found]
    assert kinds == [1, NotFoundError, 1, IntegrityError, NotEnoughCptError, 2, NotFoundError]
    assert database.read(lambda c: (spendable(c, ada), spendable(c, bob))) == (GRANT - 340, GRANT + 340)
    assert is_right(database)


def test_what_one_has_moved_is_there_for_the_next_and_for_its_own_questions(database: Database) -> None:
    ada, bob = people(database, "ada", "bob")

    def passes_on(connection: Connection) -> tuple[int, int, bool]:
        """Bob has it from the write before, and nobody else can know that yet."""
        ledger_store.move(connection, [entry("on", bob, ada, GRANT + 900)], 1.0)
        return (
            spendable(connection, ada),
            spendable(connection, bob),
            ledger_store.entry_exists(connection, ledger.transfer_id(ada, "1")),
        )

    first, seen, again = together(
        database, [moving(entry("1", ada, bob, 900)), passes_on, moving(entry("1", ada, bob, 900))]
    )
    assert (first, seen, again) == (1, (2 * GRANT, 0, True), 0)
    assert is_right(database)


def test_a_write_that_asked_and_failed_undoes_what_it_sent_and_nothing_of_others(database: Database) -> None:
    """Its question sent what others had moved before it, inside of its own savepoint."""
    ada, bob = people(database, "ada", "bob")

    def asks_and_fails(connection: Connection) -> None:
        ledger_store.move(connection, [entry("mine", ada, bob, 1)], 1.0)
        assert spendable(connection, bob) == GRANT + 8
        raise NotFoundError("so")

    found = together(
        database, [moving(entry("1", ada, bob, 7)), asks_and_fails, moving(entry("2", ada, bob, 30))]
    )
    assert [found[0], type(found[1]), found[2]] == [1, NotFoundError, 1]
    assert database.read(lambda c: spendable(c, bob)) == GRANT + 37
    assert is_right(database)


def test_what_shows_at_the_end_only_is_told_to_who_did_it(database: Database) -> None:
    """An entry that is there already, though whoever makes it knows it to be new."""
    ada, bob = people(database, "ada", "bob")
    twice = entry("twice", ada, bob, 3)

    def append(connection: Connection) -> int:
        postings.append(connection, [twice], 1.0)
        return 1

    found = together(
        database, [moving(entry("1", ada, bob, 7)), append, append, moving(entry("2", ada, bob, 30))]
    )
    assert sorted(str(type(it).__name__) for it in found) == ["IntegrityError", "int", "int", "int"]
    assert database.read(lambda c: spendable(c, bob)) == GRANT + 40
    assert is_right(database)


def test_nobody_is_answered_before_it_is_kept(database: Database) -> None:
    """Each looks from a connection of its own."""
    ada, bob = people(database, "ada", "bob")
    numbers = itertools.count()

    def pay(_: int) -> bool:
        name = str(next(numbers))
        database.write(moving(entry(name, ada, bob, 1)), sharing=TOGETHER)
        return database.read(lambda c: ledger_store.entry_exists(c, ledger.transfer_id(ada, name)))

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(pay, range(80)))
    assert is_right(database)


def test_gateways_that_end_each_others_tasks_never_wait_in_a_circle(postgres_url: str) -> None:
    """Tasks of the same owners on the same nodes, ended by several in other orders, and stopped meanwhile."""
    settings = Settings.model_validate({"max_attempts": 1})
    with ExitStack() as opened:
        gateways = [opened.enter_context(closing(Database(postgres_url))) for _ in range(3)]
        database = gateways[0]
        owners = people(database, "ada", "bob", "cid")
        provider = database.write(lambda c: add_payer(c, "dan", grant=0))
        for node in ("n1", "n2"):
            database.write(lambda c, node=node: add_node(c, provider, node, max_tasks=100))  # type: ignore[misc]
        names = []
        for number in range(24):
            name, node = f"task{number}", f"n{1 + number % 2}"
            owner = owners[number % 3]
            database.write(lambda c, o=owner, n=name: add_held_task(c, o, n, max_minutes=10))  # type: ignore[misc]
            assert database.write(lambda c, n=name, on=node: place(c, n, on))  # type: ignore[misc]
            attempt = f"{name}:1"
            database.write(lambda c, a=attempt, on=node: task_store.claim_attempt(c, a, on, provider, 1.0))  # type: ignore[misc]
            names.append((name, node))
        end = End(outcome=Outcome.SUCCEEDED, exit_code=0, reason=told(""))

        def finish(number: int) -> str:
            name, node = names[number % len(names)]

            def work(c: Connection) -> None:
                attempt_end.end_in_sql(c, f"{name}:1", node, provider, end, settings=settings, now=60.0)

            try:
                gateways[number % 3].write(work, sharing=TOGETHER)
                gateways[(number + 1) % 3].write(
                    lambda c: task_store.request_stop(c, name, 61.0), sharing=TOGETHER
                )
            except StaleAttemptError:
                return "stale"
            return "ended"

        order = [*range(24), *reversed(range(24))]
        with ThreadPoolExecutor(24) as threads:
            assert set(threads.map(finish, order)) == {"ended"}
        found = database.read(lambda c: c.execute(text("SELECT DISTINCT state FROM tasks")).scalars().all())
        assert found == ["SUCCEEDED"]
        assert is_right(database)
        wait_for_statistics = text("SELECT pg_stat_force_next_flush()")
        crossed = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        database.read(lambda c: c.execute(wait_for_statistics))
        assert database.read(lambda c: c.execute(crossed).scalar_one()) == 0
