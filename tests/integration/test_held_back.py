"""A newcomer's result is given when it stands, or when nobody should wait for that any longer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import insert, select, text, update

from dispatcher import context
from gateway import messages
from nodepool.domain.tasks.retention import Retention
from nodepool.domain.tasks.states import Outcome
from nodepool.domain.trust import holding_back
from nodepool.domain.trust.audits import FORGIVEN_AFTER
from nodepool.settings import Settings
from nodepool.stores.redis import keys
from nodepool.stores.sql import held_back_results, migrate, provisional_results
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.tables import node_records, owner_records, tasks
from tests.support.family import Family, open_family
from tests.support.fleet import START, Fleet
from tests.support.migrations import alembic_to
from tests.support.money import PRICE, add_held_task, check_sums
from tests.support.stores import add_user, migrated
from tests.support.valkey import TestValkey

FOR_EVER = Retention(0, 0, 0)


@contextmanager
def database_at(url: str) -> Iterator[Database]:
    with migrated(url) as database:
        yield database
        database.read(check_sums)
        assert database.read(ledger_store.verify) == []


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with database_at(f"sqlite:///{tmp_path / 'users.db'}") as database:
        yield database


@pytest.fixture
def low(database: Database) -> Family:
    return a_pool(database)


@pytest.fixture
def low_on_each(database_url: str) -> Iterator[Family]:
    """On SQLite and on PostgreSQL."""
    with database_at(database_url) as database:
        yield a_pool(database)


def a_pool(database: Database) -> Family:
    """Seven owners with a low-trust node each; the first is a newcomer, all others are trusted."""
    low = open_family(database, owners=7, audit_share=0.1, docker_status="none")
    trusted = [{"node_id": low.node(index), "verified": 60} for index in range(1, 7)]
    database.write(lambda c: c.execute(insert(node_records), trusted))
    return low


def submit(low: Family, task_id: str = "t", **columns: object) -> str:
    return low.database.write(
        lambda c: add_held_task(c, low.user_id, task_id, **{"created_at": low.now, **columns})
    )


def ran(low: Family, task_id: str, index: int, digest: str, outcome: Outcome = Outcome.SUCCEEDED) -> None:
    low.running(task_id, index)
    low.end(task_id, index, "", outcome, after=30, has_result=True, exit_code=int(outcome != "succeeded"))
    # The gateway makes it when the result is compared.
    query = update(tasks).where(tasks.c.id == task_id).values(result_digest=digest)
    low.database.write(lambda c: c.execute(query))


def checked(low: Family, run_id: str, index: int, digest: str, **facts: object) -> None:
    low.running(run_id, index)
    low.end(run_id, index, digest, **facts)  # type: ignore[arg-type]


def seen(low: Family, task_id: str = "t") -> tuple[str, str, bool]:
    """What its owner sees: state, verification, whether there is a result."""
    detail = messages.task_detail(low.row(task_id), FOR_EVER)
    return detail.state, detail.verification, detail.has_result


def test_a_newcomers_result_is_given_when_another_node_confirms_it(low_on_each: Family) -> None:
    low = low_on_each
    submit(low)
    ran(low, "t", 0, "true")
    row = low.row("t")
    detail = messages.task_detail(row, FOR_EVER)
    assert (detail.state, detail.verification, messages.status_word(row)) == ("RUNNING", "pending", "RUNNING")
    assert not messages.is_final(row)
    assert (detail.has_result, detail.result_bytes, detail.has_exit_code, detail.finished_at) == (
        False,
        0,
        False,
        0,
    )
    assert detail.held_back_until == low.now + holding_back.MOST_HELD_SECONDS
    assert "its result is being checked by another node" in detail.reason
    assert detail.reason == messages.status_message(row)
    # Its money has moved as ever.
    assert (row.state, row.hold_posted, low.earned()[0]) == ("SUCCEEDED", PRICE, 0)
    checked(low, "t~1", 1, "true")
    assert seen(low) == ("SUCCEEDED", "audited", True)
    detail = messages.task_detail(low.row("t"), FOR_EVER)
    assert (detail.held_back_until, detail.has_exit_code, detail.finished_at > 0) == (0, True, True)
    assert low.earned()[:2] == [PRICE, PRICE]


@pytest.mark.parametrize(
    ("said", "found"), [(Outcome.SUCCEEDED, Outcome.FAILED), (Outcome.FAILED, Outcome.SUCCEEDED)]
)
def test_a_lie_is_never_shown_and_the_task_ends_as_the_right_run_did(
    low: Family, said: Outcome, found: Outcome
) -> None:
    submit(low)
    ran(low, "t", 0, "lie", said)
    checked(low, "t~1", 1, "true", outcome=found, exit_code=int(found is Outcome.FAILED))
    assert seen(low)[0] == "RUNNING"  # one against one
    checked(low, "t~2", 2, "true", outcome=found, exit_code=int(found is Outcome.FAILED))
    row = low.row("t")
    assert seen(low) == (found.name, "disputed", True)
    assert (row.state, row.result_attempt, row.exit_code) == (
        found.name,
        "t~1:1",
        int(found is Outcome.FAILED),
    )
    assert low.earned()[0] == 0


def test_what_was_shown_keeps_its_state(low: Family) -> None:
    submit(low, take_pending=True)
    ran(low, "t", 0, "lie")
    for number in (1, 2):
        checked(low, f"t~{number}", number, "true", outcome=Outcome.FAILED, exit_code=1)
    row = low.row("t")
    assert (row.state, row.verification, row.result_attempt) == ("SUCCEEDED", "disputed", "t~1:1")
    assert "other nodes agree that it failed" in row.reason


def test_a_task_that_takes_pending_results_has_it_at_once(low: Family) -> None:
    submit(low, take_pending=True)
    ran(low, "t", 0, "true")
    assert seen(low) == ("SUCCEEDED", "pending", True)
    checked(low, "t~1", 1, "true")
    assert seen(low) == ("SUCCEEDED", "audited", True)


def test_a_node_that_is_known_is_believed_for_the_moment(low: Family) -> None:
    submit(low)
    ran(low, "t", 1, "true")
    assert seen(low) == ("SUCCEEDED", "pending", True)


def test_where_nobody_could_check_it_nothing_is_held_back(database: Database) -> None:
    alone = open_family(database, owners=1, audit_share=0.1, docker_status="none")
    submit(alone)
    ran(alone, "t", 0, "true")
    assert seen(alone) == ("SUCCEEDED", "", True)


def test_where_the_others_are_too_small_for_it_nothing_is_held_back(low: Family) -> None:
    query = "UPDATE nodes SET memory_gb = 1 WHERE id <> 'n0'"
    low.database.write(lambda c: c.exec_driver_sql(query))
    submit(low, memory_gb=4)
    ran(low, "t", 0, "true")
    assert seen(low) == ("SUCCEEDED", "pending", True)


def held(low: Family) -> list[held_back_results.HeldBackResult]:
    return low.database.read(lambda c: held_back_results.page(c, 10))


def test_the_sweep_sees_what_a_held_back_result_waits_for(low_on_each: Family) -> None:
    low = low_on_each
    submit(low)
    ran(low, "t", 0, "true")
    until = low.row("t").held_back_until
    assert held(low) == [held_back_results.HeldBackResult("t", until, low.now)]
    low.running("t~1", 1)
    assert held(low) == [held_back_results.HeldBackResult("t", until, None)]
    assert low.database.read(lambda c: held_back_results.page(c, 10, after="t")) == []


def test_it_is_given_once_and_its_check_goes_on(low: Family) -> None:
    submit(low)
    ran(low, "t", 0, "true")
    give = [low.database.write(lambda c: held_back_results.give(c, ["t"], low.now)) for _ in range(2)]
    assert give == [["t"], []]
    assert seen(low) == ("SUCCEEDED", "pending", True)
    checked(low, "t~1", 1, "true")
    assert seen(low) == ("SUCCEEDED", "audited", True)
    assert low.earned()[:2] == [PRICE, PRICE]


@pytest.mark.parametrize("is_forgiven", [True, False])
@pytest.mark.parametrize("rerun", ["true", "other"])
def test_a_recalled_run_is_paid_where_its_owner_is_forgiven_and_the_rerun_agrees(
    low: Family, *, is_forgiven: bool, rerun: str
) -> None:
    if is_forgiven:
        good = insert(owner_records).values(user_id=low.owners[0], clean=FORGIVEN_AFTER)
        low.database.write(lambda c: c.execute(good))
    known = insert(node_records).values(node_id="n0", verified=40)  # a block of some
    low.database.write(lambda c: c.execute(known))
    submit(low, "open")
    ran(low, "open", 0, "true")
    assert low.database.read(lambda c: provisional_results.under_check(c, 10)) == []
    # It lies elsewhere, as a check of another's task.
    submit(low, "other")
    low.database.write(
        lambda c: c.execute(update(node_records).where(node_records.c.node_id == "n1").values(verified=0))
    )
    ran(low, "other", 1, "true")
    checked(low, "other~1", 0, "lie")
    checked(low, "other~2", 2, "true")
    query = select(tasks.c.id).where(tasks.c.parent_id == "open")
    assert low.database.read(lambda c: list(c.execute(query).scalars())) == ["open~1"]
    if rerun == "true":
        checked(low, "open~1", 3, "true")
    else:
        for number, digest in enumerate("abcd", 1):
            checked(low, f"open~{number}", number + 2, digest)
    assert low.earned()[0] == (PRICE if is_forgiven and rerun == "true" else 0)


@pytest.fixture
def fleet(valkey: TestValkey, tmp_path: Path) -> Iterator[Fleet]:
    settings = Settings.model_validate(
        {"redis_url": valkey.url, "db_path": tmp_path / "users.db", "task_storage_path": tmp_path}
    )
    now = [START]
    dispatcher = context.build(settings, clock=lambda: now[0], steady=lambda: now[0])
    yield Fleet(dispatcher, now, dispatcher.database.write(add_user))
    dispatcher.close()


def held_task(fleet: Fleet, check_state: str) -> str:
    """A task whose result has just come and is held back, with the run that checks it."""
    until = fleet.now[0] + holding_back.MOST_HELD_SECONDS
    ended = {"state": "SUCCEEDED", "finished_at": fleet.now[0], "held_back_until": until}
    task_id = fleet.task(**ended, result_attempt="a")
    check = {"parent_id": task_id, "kind": "audit", "state": check_state, "queued_at": fleet.now[0]}
    fleet.task(task_id=f"{task_id}~1", **check)
    return task_id


def test_the_sweep_gives_what_nobody_checks_and_what_was_held_back_for_a_day(fleet: Fleet) -> None:
    unchecked, checked_now = held_task(fleet, "QUEUED"), held_task(fleet, "RUNNING")
    channel = fleet.dispatcher.redis.pubsub()  # type: ignore[no-untyped-call]
    channel.subscribe(keys.EVENTS_CHANNEL)
    fleet.sweep(after=holding_back.CHECKER_PATIENCE_SECONDS - 1)
    assert [fleet.row(task_id).held_back_until > 0 for task_id in (unchecked, checked_now)] == [True, True]
    fleet.sweep(after=1)
    assert [fleet.row(task_id).held_back_until > 0 for task_id in (unchecked, checked_now)] == [False, True]
    told = [message["data"] for _ in range(20) if (message := channel.get_message()) is not None]
    assert unchecked.encode() in told
    fleet.sweep(after=holding_back.MOST_HELD_SECONDS)
    assert fleet.row(checked_now).held_back_until == 0
    channel.close()


def test_a_database_of_the_version_before_holds_nothing_back_and_its_checks_go_on(
    low_on_each: Family,
) -> None:
    """Also one that was taken back to that version while something was held back."""
    low = low_on_each
    submit(low)
    ran(low, "t", 0, "true")
    alembic_to(low.database, command.downgrade, "0006")
    with low.database.engine.connect() as connection:
        for column in ("take_pending", "held_back_until"):
            with pytest.raises(Exception, match=column):
                connection.execute(text(f"SELECT {column} FROM tasks"))
            connection.rollback()
    migrate.migrate(low.database)
    assert (seen(low), low.row("t").take_pending) == (("SUCCEEDED", "pending", True), False)
    checked(low, "t~1", 1, "true")
    assert seen(low) == ("SUCCEEDED", "audited", True)
    submit(low, "next")
    ran(low, "next", 0, "true")
    assert seen(low, "next")[0] == "RUNNING"
