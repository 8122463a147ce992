"""Scores and friends: what one person's accounts agree on among themselves says nothing of any of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import update

from nodepool.domain.money import ledger
from nodepool.domain.money.ledger import EntryKind, NewEntry
from nodepool.domain.tasks.states import Outcome
from nodepool.domain.trust.credit import MOVES, Cause
from nodepool.settings import Settings
from nodepool.stores.sql import owner_relations, tasks as task_store, verification_records
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.owner_relations import Reach
from nodepool.stores.sql.tables import nodes, tasks, users
from tests.support.databases import sqlite_file
from tests.support.family import Family, open_family
from tests.support.money import PRICE, add_held_task, check_sums
from tests.support.stores import migrated

FRIENDS = (0, 1, 2)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with migrated(f"sqlite:///{sqlite_file(tmp_path / 'users.db')}") as database:
        yield database
        database.read(check_sums)
        assert database.read(ledger_store.verify) == []


@pytest.fixture
def pool(database: Database) -> Family:
    return a_pool(database)


def a_pool(database: Database) -> Family:
    """Eight owners with a low-trust node each. The first three are one person's, in a region of their own."""
    family = open_family(database, owners=8, audit_share=0.1, docker_status="none")
    for index in FRIENDS:
        query = update(nodes).where(nodes.c.id == family.node(index))
        database.write(lambda c, q=query: c.execute(q.values(region="africa")))  # type: ignore[misc]
    return family


def standing(pool: Family, index: int) -> tuple[int, int, int]:
    """(score, verified in a row, strikes)"""
    node = pool.database.read(lambda c: verification_records.of_node(c, pool.node(index)))
    owner = pool.database.read(lambda c: verification_records.of_owner(c, pool.owners[index]))
    query = users.select().where(users.c.id == pool.owners[index])
    score = pool.database.read(lambda c: c.execute(query).one()).credit_score
    return int(score), node.verified, owner.strikes


def audited(
    pool: Family, task_id: str, by: int, *checkers: int, digest: str = "same", **columns: object
) -> str:
    """A task runs on one node, and others check it; all return the same. What its user is told in the end."""
    values = {"created_at": pool.now, **columns}
    pool.database.write(lambda c: add_held_task(c, pool.user_id, task_id, **values))
    pool.running(task_id, by)
    pool.end(task_id, by, after=30, has_result=True)
    query = update(tasks).where(tasks.c.id == task_id).values(result_digest=digest)
    pool.database.write(lambda c: c.execute(query))
    for number, index in enumerate(checkers, 1):
        if pool.row(task_id).verification != "pending":
            break  # as many as were needed
        pool.running(f"{task_id}~{number}", index)
        pool.end(f"{task_id}~{number}", index, "same")
    return str(pool.row(task_id).verification)


def test_replicas_that_a_user_orders_raise_nobodys_score(pool: Family) -> None:
    """Three accounts of one person agreed on rubbish, and each gained a point a time."""
    before = [standing(pool, index) for index in FRIENDS]
    for time in range(4):
        pool.submit(3, f"t{time}", region="africa")
        for index in FRIENDS:
            pool.running(f"t{time}~{index + 1}", index)
        for index in FRIENDS:
            pool.end(f"t{time}~{index + 1}", index, "rubbish")
        assert pool.row(f"t{time}").verification == "agreed"
    assert [standing(pool, index) for index in FRIENDS] == before


def test_nor_can_friends_take_a_strangers_score_by_outvoting_him(pool: Family) -> None:
    before = standing(pool, 5)
    pool.submit(4)
    for number, index in enumerate((5, *FRIENDS), 1):
        pool.running(f"t~{number}", index)
    for number, index in enumerate((5, *FRIENDS), 1):
        pool.end(f"t~{number}", index, "true" if index == 5 else "rubbish")
    assert pool.verdicts("t")[0] == "differs"
    assert standing(pool, 5) == before


NICHES = [
    {"region": "africa", "location_mode": "strict"},
    {"cpu_score": 9000},
    {"memory_gb": 64},
    {"gpu_name": "rarest"},
]


@pytest.mark.parametrize("niche", NICHES, ids=["region", "cpu", "memory", "gpu"])
def test_a_check_that_only_friends_can_make_says_nothing_of_them(
    pool: Family, niche: dict[str, object]
) -> None:
    for index in FRIENDS:
        facts = {"cpu_score": 10_000, "memory_gb": 128, "gpu_name": "Rarest"}
        query = update(nodes).where(nodes.c.id == pool.node(index)).values(facts)
        pool.database.write(lambda c, q=query: c.execute(q))  # type: ignore[misc]
    before = [standing(pool, index) for index in range(4)]
    assert audited(pool, "t", 0, 1, 2, **niche) == "audited"
    assert [standing(pool, index) for index in range(4)] == before


def test_nor_can_they_take_the_score_of_a_stranger_in_their_niche(pool: Family) -> None:
    query = update(nodes).where(nodes.c.id == pool.node(4)).values(region="africa")
    pool.database.write(lambda c: c.execute(query))
    before = standing(pool, 4)
    said = audited(pool, "t", 4, *FRIENDS, digest="true", region="africa", location_mode="strict")
    # Not paid for this one: three say that it was false, and the pool knows none of them.
    assert said == "disputed"
    assert standing(pool, 4) == before


def test_a_check_that_many_could_have_made_counts(pool: Family) -> None:
    (score, verified, _), lies = standing(pool, 4), standing(pool, 5)
    assert audited(pool, "t", 4, 5, 6, 7) == "audited"
    assert standing(pool, 4) == (score + MOVES[Cause.VERIFIED].delta, verified + 1, 0)
    assert audited(pool, "t2", 5, 4, 6, 7, digest="lie") == "disputed"
    assert standing(pool, 5) == (lies[0] + 1 + MOVES[Cause.DIFFERED].delta, 0, 1)


@pytest.mark.parametrize("tie", ["address", "sent", "was sent"])
def test_who_is_confirmed_by_friends_alone_is_not_confirmed(pool: Family, tie: str) -> None:
    """Three voices agree, and the two others may be the same person as the node's owner."""
    for index in FRIENDS:
        if tie == "address":
            query = update(nodes).where(nodes.c.id == pool.node(index)).values(peer_address="203.0.113.7")
            pool.database.write(lambda c, q=query: c.execute(q))  # type: ignore[misc]
    if tie != "address":
        for other in FRIENDS[1:]:
            pair = (pool.owners[0], pool.owners[other])
            paid, got = pair if tie == "sent" else pair[::-1]
            give = NewEntry(
                f"mint:{paid}-{other}", EntryKind.GRANT, ledger.MINT, ledger.user_account(paid), 1
            )
            accounts = ledger.user_account(paid), ledger.user_account(got)
            sent = NewEntry(f"transfer:{paid}:{other}", EntryKind.TRANSFER, *accounts, 1)
            pool.database.write(lambda c, e=(give, sent): ledger_store.move(c, list(e), pool.now))  # type: ignore[misc]
    before = standing(pool, 0)
    assert audited(pool, "t", 0, 1, 2, created_at=pool.now) == "audited"
    assert standing(pool, 0) == before


@pytest.mark.postgres
def test_it_is_so_on_postgresql(postgres_url: str) -> None:
    with migrated(postgres_url) as database:
        pool = a_pool(database)
        before = standing(pool, 0)
        assert audited(pool, "t0", 0, 1, 2, region="africa", location_mode="strict") == "audited"
        assert standing(pool, 0) == before
        test_a_check_that_many_could_have_made_counts(pool)
        assert database.read(ledger_store.verify) == []


def test_one_users_tasks_raise_an_owners_score_once_a_day(pool: Family) -> None:
    before = standing(pool, 4)[0]
    for time in range(3):
        assert audited(pool, f"t{time}", 4, 5, 6, 7) == "audited"
    assert standing(pool, 4)[0] == before + 1
    pool.now += 86_401
    assert audited(pool, "later", 4, 5, 6, 7) == "audited"
    assert standing(pool, 4)[0] == before + 2


def test_owners_at_one_address_are_one_owner_and_this_machine_is_no_address() -> None:
    count = owner_relations._distinct
    assert count([(1, "10.0.0.1"), (2, "10.0.0.1"), (3, "10.0.0.2"), (3, "10.0.0.1"), (4, "10.0.0.2")]) == 1
    assert count([(1, "127.0.0.1"), (2, "127.0.0.1"), (3, ""), (4, "::1")]) == 4
    assert Reach(able=5, there=9).raises(5)
    assert not Reach(able=4, there=4).raises(5)
    # In a small pool a lie costs, but not where a task was made so that few of many could run it.
    assert Reach(able=3, there=3).lowers(5)
    assert not Reach(able=3, there=9).lowers(5)


# -- nodes above low trust ----------------------------------------------------------------------------
@pytest.fixture
def spotted(database: Database) -> Family:
    """Owners above low trust, each result of whom is checked."""
    family = open_family(database, owners=7)
    settings = {"audit_share": 0.1, "spot_check_share": 1.0}
    return replace(family, settings=Settings.model_validate(settings))


def test_a_lie_above_low_trust_is_found_by_a_spot_check(spotted: Family) -> None:
    before = standing(spotted, 0)[0]
    assert audited(spotted, "t", 0, 1, 2, digest="lie") == "disputed"
    assert standing(spotted, 0) == (before + MOVES[Cause.DIFFERED].delta, 0, 1)
    assert spotted.earned()[0] == 0
    assert audited(spotted, "t2", 3, 4) == "audited"
    assert spotted.earned()[3] == PRICE


def test_without_a_spot_check_it_is_paid_at_once_and_moves_no_score(database: Database) -> None:
    family = open_family(database, audit_share=0.1)
    before = standing(family, 0)
    assert audited(family, "t", 0) == ""
    assert (standing(family, 0), family.earned()[0]) == (before, PRICE)


@pytest.mark.parametrize(
    "shown", [{}, {"cpu_seconds": 30.0}, {"output_bytes": 1}], ids=["none", "cpu", "output"]
)
def test_a_run_of_all_its_time_that_shows_nothing_is_checked_before_it_is_paid(
    database: Database, shown: dict[str, float]
) -> None:
    """A node that idles to the bound and then says that the task took too long."""
    family = open_family(database, audit_share=0.1)
    family.database.write(lambda c: add_held_task(c, family.user_id, "t", created_at=family.now))
    family.running("t", 0)
    family.end("t", 0, "", Outcome.FAILED, after=600, has_result=True, **shown)
    assert family.row("t").verification == ("" if shown else "pending")
    assert family.earned()[0] == (10 * PRICE if shown else 0)


def test_a_word_of_output_before_idling_brings_a_check_and_no_pay(database: Database) -> None:
    """The pool had to end it, and it said something: paid only when others find the same."""
    family = open_family(database, owners=7, audit_share=0.1)
    before = standing(family, 0)[0]
    family.database.write(lambda c: add_held_task(c, family.user_id, "t", created_at=family.now))
    family.running("t", 0)
    family.end("t", 0, "", Outcome.FAILED, after=900, has_result=True, output_bytes=1, late=True)
    assert (family.row("t").verification, family.earned()[0]) == ("pending", 0)
    said = update(tasks).where(tasks.c.id == "t").values(result_digest="a word, and no result")
    family.database.write(lambda c: c.execute(said))
    for number in (1, 2):
        family.running(f"t~{number}", number)
        family.end(f"t~{number}", number, "the result")
    assert (family.row("t").verification, family.row("t").result_attempt) == ("disputed", "t~1:1")
    assert family.earned()[:3] == [0, PRICE, PRICE]
    assert standing(family, 0)[0] == before + MOVES[Cause.LATE].delta + MOVES[Cause.DIFFERED].delta


def test_nobody_is_paid_for_a_run_of_which_there_is_nothing(database: Database) -> None:
    family = open_family(database)
    family.database.write(lambda c: add_held_task(c, family.user_id, "t", created_at=family.now))
    family.running("t", 0)
    family.database.write(lambda c: task_store.request_stop(c, "t", family.now))
    family.end("t", 0, "", Outcome.STOPPED, after=300, idle=True)
    assert (family.earned()[0], family.spent()) == (0, 0)


def test_who_dawdles_is_paid_what_the_check_took_twice_and_a_minute(spotted: Family) -> None:
    family = spotted
    family.database.write(
        lambda c: add_held_task(c, family.user_id, "t", created_at=family.now, max_minutes=60)
    )
    family.running("t", 0)
    family.end("t", 0, after=50 * 60, has_result=True)
    query = update(tasks).where(tasks.c.id == "t").values(result_digest="same")
    family.database.write(lambda c: c.execute(query))
    family.running("t~1", 1)
    family.end("t~1", 1, "same", after=90)
    assert family.row("t").verification == "audited"
    assert family.earned()[:2] == [5 * PRICE, 2 * PRICE]
    assert family.spent() == 5 * PRICE
