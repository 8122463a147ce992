"""Audits of low-trust results, secret checks, pay that waits, recalls, even books."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, insert, select, update

from nodepool.domain.money import ledger
from nodepool.domain.money.ledger import EntryKind, NewEntry
from nodepool.domain.tasks.states import Outcome
from nodepool.domain.trust import audits as verification
from nodepool.domain.trust.audits import OwnerRecord
from nodepool.domain.trust.replication import CHECK_PATIENCE_SECONDS
from nodepool.stores.sql import provisional_results as audit_store, tasks as task_store, verification_records
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.tables import node_records, owner_records, provisional_results, tasks, users
from nodepool.workflows import audit as audit_ends
from tests.support.family import Family, open_family
from tests.support.money import PRICE, account, add_held_task, check_sums
from tests.support.stores import add_node, migrated


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with migrated(database_url) as database:
        yield database
        database.read(check_sums)
        report = database.read(ledger_store.verify)
        assert report == []


@pytest.fixture
def low(database: Database) -> Family:
    """Six owners with a low-trust node each."""
    return open_family(database, audit_share=0.1, docker_status="none")


def submit(low: Family, task_id: str = "t", **columns: object) -> str:
    return low.database.write(
        lambda c: add_held_task(c, low.user_id, task_id, **{"created_at": low.now, **columns})
    )


def ran(low: Family, task_id: str, index: int, digest: str = "true") -> None:
    """The task ran on that node; `digest` is what the gateway makes of the result when it is compared."""
    low.running(task_id, index)
    low.end(task_id, index, after=30, has_result=True)
    query = update(tasks).where(tasks.c.id == task_id).values(result_digest=digest)
    low.database.write(lambda c: c.execute(query))


def checked(low: Family, run_id: str, index: int, digest: str) -> None:
    low.running(run_id, index)
    low.end(run_id, index, digest)


def trust(low: Family, index: int, verified: int = 60) -> None:
    """As if so many results of the node had been verified in a row."""
    query = insert(node_records).values(node_id=low.node(index), verified=verified)
    low.database.write(lambda c: c.execute(query))


def record(low: Family, index: int) -> tuple[int, int, bool]:
    """(verified in a row, strikes, paused)"""
    node = low.database.read(lambda c: verification_records.of_node(c, low.node(index)))
    owner = low.database.read(lambda c: verification_records.of_owner(c, low.owners[index]))
    return node.verified, owner.strikes, node.paused_until > low.now


def waiting_pay(low: Family) -> int:
    return low.database.read(lambda c: account(c, ledger.PENDING))


def provisional(low: Family) -> list[str]:
    query = select(provisional_results.c.task_id).order_by(provisional_results.c.task_id)
    return low.database.read(lambda c: list(c.execute(query).scalars()))


def word(low: Family, task_id: str) -> str:
    return str(low.row(task_id).verification)


def test_a_newcomers_result_is_the_users_at_once_and_is_paid_when_another_confirms_it(low: Family) -> None:
    trust(low, 1)
    submit(low)
    ran(low, "t", 0)
    row = low.row("t")
    assert (row.state, row.verification, row.result_attempt) == ("SUCCEEDED", "pending", "t:1")
    assert (low.earned()[0], waiting_pay(low), low.spent()) == (0, PRICE, PRICE)
    assert [run.state for run in low.runs("t")] == ["QUEUED"]
    assert [row.id for row in low.database.read(lambda c: task_store.queued(c, 10))] == ["t~1"]
    checked(low, "t~1", 1, "true")
    assert (word(low, "t"), low.verdicts("t")) == ("audited", ["agreed"])
    # The pool pays for the check, and not the user.
    assert (low.earned()[:2], waiting_pay(low), low.spent()) == ([PRICE, PRICE], 0, PRICE)
    assert (record(low, 0), record(low, 1)) == ((1, 0, False), (60, 0, False))
    assert provisional(low) == []


def test_a_lie_is_replaced_its_node_is_not_paid_and_pauses(low: Family) -> None:
    trust(low, 1)
    scores = select(users.c.credit_score).where(users.c.id == low.owners[0])
    before = low.database.read(lambda c: c.execute(scores).scalar_one())
    submit(low)
    ran(low, "t", 0, "lie")
    checked(low, "t~1", 1, "true")
    assert word(low, "t") == "pending"  # one against one
    checked(low, "t~2", 2, "true")
    row = low.row("t")
    assert (row.state, row.verification, row.result_attempt) == ("SUCCEEDED", "disputed", "t~1:1")
    assert row.reason.startswith("its first result was false")
    assert low.earned()[:3] == [0, PRICE, PRICE]
    assert (waiting_pay(low), low.spent()) == (0, PRICE)
    assert record(low, 0) == (0, 1, True)
    assert low.database.read(lambda c: c.execute(scores).scalar_one()) < before


def test_a_checker_that_lies_is_outvoted(low: Family) -> None:
    trust(low, 0)
    submit(low)
    low.database.write(lambda c: c.execute(update(node_records).values(verified=0)))
    ran(low, "t", 0)
    low.database.write(lambda c: c.execute(update(node_records).values(verified=60)))
    checked(low, "t~1", 1, "lie")
    checked(low, "t~2", 2, "true")
    assert (word(low, "t"), low.verdicts("t")) == ("audited", ["differs", "agreed"])
    assert low.earned()[:3] == [PRICE, 0, PRICE]
    assert record(low, 1)[1:] == (1, True)


def test_a_trusted_nodes_block_is_checked_once_and_paid_together(low: Family) -> None:
    trust(low, 0)
    trust(low, 1)
    size = 10
    for number in range(size):
        submit(low, f"t{number}")
        ran(low, f"t{number}", 0)
        assert low.earned()[0] == 0
    (drawn,) = low.database.read(lambda c: audit_store.under_check(c, 10))
    assert [len(low.runs(f"t{number}")) for number in range(size)].count(1) == 1
    checked(low, f"{drawn}~1", 1, "true")
    assert {word(low, f"t{number}") for number in range(size)} == {"audited"}
    assert low.earned()[:2] == [size * PRICE, PRICE]
    assert (provisional(low), waiting_pay(low)) == ([], 0)


def test_of_a_block_with_a_lie_everything_is_run_again(low: Family) -> None:
    """The node is not paid for its right ones either, and their users pay once."""
    trust(low, 0)
    trust(low, 1)
    for number in range(10):
        submit(low, f"t{number}")
        ran(low, f"t{number}", 0, "lie")
    submit(low, "open")
    ran(low, "open", 0, "true")
    (drawn,) = low.database.read(lambda c: audit_store.under_check(c, 10))
    checked(low, f"{drawn}~1", 1, "true")
    checked(low, f"{drawn}~2", 2, "true")
    assert word(low, drawn) == "disputed"
    others = sorted({f"t{number}" for number in range(10)} - {drawn} | {"open"})
    assert provisional(low) == others
    assert [len(low.runs(task_id)) for task_id in others] == [1] * 10
    for task_id in others:
        checked(low, f"{task_id}~1", 1, "true")
        if task_id != "open":
            checked(low, f"{task_id}~2", 2, "true")
    assert {word(low, task_id) for task_id in others if task_id != "open"} == {"disputed"}
    assert word(low, "open") == "audited"
    assert low.earned()[0] == 0
    assert (waiting_pay(low), low.spent(), provisional(low)) == (0, 11 * PRICE, [])
    assert record(low, 0) == (0, 1, True)  # struck once, however many were false


def test_one_error_of_an_owner_with_a_good_record_costs_that_result_only(low: Family) -> None:
    trust(low, 0)
    trust(low, 1)
    good = insert(owner_records).values(user_id=low.owners[0], clean=verification.FORGIVEN_AFTER)
    low.database.write(lambda c: c.execute(good))
    submit(low, "open")
    ran(low, "open", 0)
    for number in range(9):
        submit(low, f"t{number}")
        ran(low, f"t{number}", 0)
    (drawn,) = low.database.read(lambda c: audit_store.under_check(c, 10))
    low.database.write(
        lambda c: c.execute(update(tasks).where(tasks.c.id == drawn).values(result_digest="slip"))
    )
    checked(low, f"{drawn}~1", 1, "true")
    checked(low, f"{drawn}~2", 2, "true")
    for task_id in provisional(low):
        checked(low, f"{task_id}~1", 1, "true")
    assert low.earned()[0] == 9 * PRICE
    assert record(low, 0) == (0, 1, False)
    assert waiting_pay(low) == 0


def test_a_check_without_an_answer_is_no_check(low: Family) -> None:
    """Nobody of another owner came in a day: nobody is blamed, and the node is paid."""
    submit(low)
    ran(low, "t", 0)
    low.now += CHECK_PATIENCE_SECONDS - 1
    assert not due(low, "t")
    low.now += 1
    assert due(low, "t")
    settle(low, "t")
    assert (word(low, "t"), low.states("t"), low.earned()[0]) == ("", ["STOPPED"], PRICE)
    assert record(low, 0) == (0, 0, False)


def test_a_task_that_is_never_the_same_is_marked_and_paid(low: Family) -> None:
    submit(low)
    ran(low, "t", 0, "a")
    for number, digest in enumerate("bcde", 1):
        checked(low, f"t~{number}", number, digest)
    assert (word(low, "t"), low.row("t").result_attempt) == ("disputed", "t:1")
    assert low.earned()[:5] == [PRICE] * 5
    assert low.spent() == PRICE


def test_a_block_closes_with_time(low: Family) -> None:
    trust(low, 0)
    submit(low)
    ran(low, "t", 0)
    assert low.runs("t") == []
    low.now += verification.MOST_BLOCK_SECONDS
    late = low.database.read(
        lambda c: audit_store.blocks_since_before(c, low.now - verification.MOST_BLOCK_SECONDS + 1)
    )
    assert late == ["n0"]
    added = low.database.write(lambda c: audit_ends.close_block(c, "n0", low.deciding()))
    assert [run.task_id for run in added] == ["t~1"]
    assert low.database.write(lambda c: audit_ends.close_block(c, "n0", low.deciding())) == ()


@pytest.mark.parametrize("case", ["high", "own", "pinned", "nobody else", "stopped", "off"])
def test_what_is_not_audited_is_paid_at_once(database: Database, case: str) -> None:
    low = open_family(
        database,
        owners=1 if case == "nobody else" else 3,
        audit_share=0.0 if case == "off" else 0.1,
        docker_status="running" if case == "high" else "none",
    )
    if case == "own":
        database.write(lambda c: add_node(c, low.user_id, "n9", docker_status="none"))
        low.owners += [low.user_id] * 7
    index = 9 if case == "own" else 0
    submit(low, pinned_node="n0" if case == "pinned" else "")
    low.running("t", index)
    low.end("t", index, "", Outcome.STOPPED if case == "stopped" else Outcome.SUCCEEDED)
    assert (word(low, "t"), low.runs("t"), provisional(low), waiting_pay(low)) == ("", [], [], 0)
    if case != "own":
        assert low.earned()[0] == PRICE


def test_the_checker_is_somebody_else_than_node_and_user(low: Family) -> None:
    low.database.write(lambda c: add_node(c, low.user_id, "n9"))
    low.database.write(lambda c: add_node(c, low.owners[0], "n8"))
    submit(low)
    ran(low, "t", 0)
    for index in (0, 8, 9):
        assert low.place(("t~1", index)) == set()
    assert low.place(("t~1", 1))


def test_a_fee_that_covers_it_pays_for_the_check(low: Family) -> None:
    entry = NewEntry("mint:fees", EntryKind.GRANT, ledger.MINT, ledger.FEE, PRICE)
    low.database.write(lambda c: ledger_store.move(c, [entry], low.now))
    minted = low.database.read(lambda c: account(c, ledger.MINT))
    trust(low, 1)
    submit(low)
    ran(low, "t", 0)
    checked(low, "t~1", 1, "true")
    assert low.database.read(lambda c: (account(c, ledger.FEE), account(c, ledger.MINT))) == (0, minted)


def test_told_again_and_crossing_ends_change_nothing(low: Family) -> None:
    for index in range(1, 4):
        trust(low, index)
    submit(low)
    ran(low, "t", 0, "lie")
    checked(low, "t~1", 1, "true")
    low.running("t~2", 2)
    low.now += 10
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: low.end_attempt("t~2:1", 2, "true"), range(4)))
        list(threads.map(lambda _: settle(low, "t"), range(4)))
    assert low.earned()[:3] == [0, PRICE, PRICE]
    assert record(low, 0) == (0, 1, True)
    count = select(func.count()).select_from(tasks).where(tasks.c.parent_id == "t")
    assert low.database.read(lambda c: c.execute(count).scalar_one()) == 2


def test_two_nodes_that_check_each_other_at_once_both_come_to_an_end(low: Family) -> None:
    for index in (0, 1):
        trust(low, index, verified=5)
        submit(low, f"t{index}")
        ran(low, f"t{index}", index)
    low.running("t0~1", 1)
    low.running("t1~1", 0)
    low.now += 10
    acts = [("t0~1:1", 1), ("t1~1:1", 0)]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda act: low.end_attempt(act[0], act[1], "true"), acts))
    # Neither is trusted, so that both ask a third.
    for task_id, index in (("t0", 2), ("t1", 3)):
        checked(low, f"{task_id}~2", index, "true")
        assert word(low, task_id) == "audited"
    assert low.earned()[:4] == [2 * PRICE, 2 * PRICE, PRICE, PRICE]


def test_a_new_node_of_an_owner_with_strikes_waits_first(low: Family) -> None:
    strikes = insert(owner_records).values(user_id=low.owners[0], strikes=2)
    low.database.write(lambda c: c.execute(strikes))
    low.database.write(lambda c: add_node(c, low.owners[0], "n7", now=low.now))
    paused = low.database.read(lambda c: verification_records.of_node(c, "n7")).paused_until
    assert paused == low.now + verification.pause_seconds(OwnerRecord(strikes=2))
    assert low.database.read(lambda c: verification_records.of_node(c, "n1")).paused_until == 0


def due(low: Family, task_id: str) -> bool:
    return low.database.read(lambda c: audit_ends.is_due(c, task_id, low.deciding()))


def settle(low: Family, task_id: str) -> None:
    low.follow_up(task_id, audit_ends.follow_up)


def test_a_node_that_is_found_false_by_the_pool_itself_is_not_paid_before_all_of_it_was_run_again(
    low: Family,
) -> None:
    trust(low, 0)
    trust(low, 1)
    for number in range(3):
        submit(low, f"t{number}")
        ran(low, f"t{number}", 0)
    by = low.deciding()
    owner_id = low.owners[0]
    added = low.database.write(lambda c: audit_ends.found_false(c, low.node(0), owner_id, by))
    assert sorted(run.task_id for run in added) == ["t0~1", "t1~1", "t2~1"]
    assert record(low, 0) == (0, 1, True)
    for number in range(3):
        checked(low, f"t{number}~1", 1, "true")
    assert low.earned()[0] == 0
    assert (waiting_pay(low), low.spent(), provisional(low)) == (0, 3 * PRICE, [])


def test_who_is_outvoted_among_replicas_loses_nothing_and_has_his_next_results_checked(low: Family) -> None:
    """Those who agreed may be friends of who ordered them."""
    trust(low, 0)
    submit(low, "unpaid")
    ran(low, "unpaid", 0)
    low.submit(4)
    for index in range(4):
        low.running(f"t~{index + 1}", index)
    low.end("t~1", 0, "lie")
    for index in range(1, 4):
        ended = low.end(f"t~{index + 1}", index, "true")
    assert ended.follow_up is not None
    assert (ended.follow_up.paused, ended.follow_up.added, record(low, 0)) == (set(), (), (60, 0, False))
    for number in range(verification.WATCHED):
        submit(low, f"next{number}")
        ran(low, f"next{number}", 0)
        assert [run.state for run in low.runs(f"next{number}")] == ["QUEUED"]
    submit(low, "after")
    ran(low, "after", 0)
    assert low.runs("after") == []
    # One of them is a lie, and now the pool knows it by a vote of its own.
    lied = update(tasks).where(tasks.c.id == "next0").values(result_digest="lie")
    low.database.write(lambda c: c.execute(lied))
    checked(low, "next0~1", 1, "true")
    checked(low, "next0~2", 2, "true")
    checked(low, "next0~3", 3, "true")
    assert (word(low, "next0"), record(low, 0)) == ("disputed", (0, 1, True))
