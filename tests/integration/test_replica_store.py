"""Several runs of one task, on SQLite and PostgreSQL: owners apart, votes, money, crossing words, repairs."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import delete, func, select

from nodepool.domain.errors import StaleAttemptError
from nodepool.domain.tasks.reasons import told
from nodepool.domain.tasks.states import Outcome
from nodepool.domain.trust.replication import PATIENCE_SECONDS
from nodepool.stores.sql import (
    placements as placing,
    queue_statistics,
    replicas as replica_store,
    tasks as task_store,
    verification_records,
)
from nodepool.stores.sql.tables import holds, tasks, users
from tests.support.family import Family, open_family
from tests.support.money import PRICE, check_sums, hold_of
from tests.support.stores import add_node, add_task, migrated


@pytest.fixture
def family(database_url: str) -> Iterator[Family]:
    with migrated(database_url) as database:
        found = open_family(database)
        yield found
        database.read(check_sums)


def score(family: Family, index: int) -> int:
    query = select(users.c.credit_score).where(users.c.id == family.owners[index])
    return family.database.read(lambda c: c.execute(query).scalar_one())


def test_only_its_runs_wait_for_nodes_and_only_the_task_is_listed(family: Family) -> None:
    family.submit(3)
    read = family.database.read
    runs = ["t~1", "t~2", "t~3"]
    assert [row.id for row in read(lambda c: task_store.queued(c, 10))] == runs
    assert [row.id for row in read(lambda c: placing.waiting(c, ["t", *runs]))] == runs
    assert [row.id for row in read(lambda c: queue_statistics.oldest_waiting(c, 10))] == runs
    assert read(queue_statistics.count_waiting) == 3
    assert [row.id for row in read(lambda c: task_store.of_owner(c, family.user_id, 10))] == ["t"]
    assert read(lambda c: task_store.count_unfinished(c, family.user_id)) == 1
    assert family.place(("t", 0)) == set()


def test_who_may_not_have_a_run(family: Family) -> None:
    family.submit(3)
    family.running("t~1", 0)
    family.place(("t~2", 1))
    family.end("t~2", 1, outcome=Outcome.REFUSED)
    found = family.database.read(lambda c: replica_store.not_owners(c, ["t", "t~1", "t~2", "t~3"]))
    user, (first, *_) = family.user_id, family.owners
    assert found == {"t~1": {user}, "t~2": {user, first}, "t~3": {user, first}}


def test_two_runs_are_never_placed_with_one_owner(family: Family) -> None:
    """Neither at once nor one after the other, nor on another node of theirs that came since."""
    family.submit(4)
    assert family.place(("t~1", 0), ("t~2", 0), ("t~3", 1)) == {"t~1", "t~3"}
    family.database.write(lambda c: add_node(c, family.owners[0], "n9"))
    assert family.place(("t~2", 9)) == set()
    family.claim("t~1", 0)
    family.end("t~1", 0, "a")
    assert family.place(("t~2", 0)) == set()
    assert family.place(("t~2", 2), ("t~4", 3)) == {"t~2", "t~4"}


def test_of_two_dispatchers_that_place_at_once_only_one_gives_an_owner_a_run(family: Family) -> None:
    family.submit(5)
    with ThreadPoolExecutor(5) as threads:
        placed = list(threads.map(lambda number: family.place((f"t~{number}", 0)), range(1, 6)))
    assert sum(map(len, placed)) == 1


def test_those_who_agree_are_paid_their_minutes_and_who_differs_is_not(family: Family) -> None:
    family.submit(4)
    assert family.spent() == 4 * 10 * PRICE
    before = [score(family, index) for index in range(4)]
    for index in range(4):
        family.running(f"t~{index + 1}", index)
    family.end("t~1", 0, "lie", after=30)
    family.end("t~2", 1, "true", after=60)
    family.end("t~3", 2, "true", after=60)
    assert family.row("t").state == "RUNNING"
    ended = family.end("t~4", 3, "true", after=0)
    assert ended.follow_up is not None
    assert ended.follow_up.ended
    row = family.row("t")
    assert (row.state, row.verification, row.result_attempt, row.node_id) == (
        "SUCCEEDED",
        "agreed",
        "t~2:1",
        "n1",
    )
    assert family.verdicts("t") == ["differs", "agreed", "agreed", "agreed"]
    assert family.earned()[:4] == [0, 2 * PRICE, 3 * PRICE, 3 * PRICE]
    assert family.spent() == 8 * PRICE
    # Who ordered them may have chosen who agrees with whom: no score moves, and the pool looks for itself.
    assert [score(family, index) for index in range(4)] == before
    assert [
        family.database.read(lambda c, n=f"n{i}": verification_records.is_watched(c, n)) for i in range(2)
    ] == [
        True,
        False,
    ]
    with pytest.raises(StaleAttemptError):
        family.end_attempt("t~1:1", 0, "", Outcome.LOST)
    assert not family.end_attempt("t~4:1", 3, "true").changed
    assert family.earned()[:4] == [0, 2 * PRICE, 3 * PRICE, 3 * PRICE]


def test_however_many_end_at_once_the_task_ends_once(family: Family) -> None:
    family.submit(5)
    for index in range(5):
        family.running(f"t~{index + 1}", index)
    family.now += 10
    with ThreadPoolExecutor(5) as threads:
        ends = list(threads.map(lambda index: family.end_attempt(f"t~{index + 1}:1", index, "a"), range(5)))
    assert sum(ended.follow_up is not None and ended.follow_up.ended for ended in ends) == 1
    assert family.row("t").state == "SUCCEEDED"
    assert family.earned() == [PRICE] * 5 + [0]


def test_a_tie_gets_one_more_run_and_its_owner_decides(family: Family) -> None:
    family.submit(2)
    for index in range(2):
        family.running(f"t~{index + 1}", index)
    family.end("t~1", 0, "a")
    ended = family.end("t~2", 1, "b")
    assert ended.follow_up is not None
    assert [run.task_id for run in ended.follow_up.added] == ["t~3"]
    assert family.place(("t~3", 0)) == set()
    family.running("t~3", 2)
    family.end("t~3", 2, "b")
    assert family.row("t").result_attempt == "t~2:1"
    assert family.earned()[:3] == [0, PRICE, PRICE]


def test_answers_that_all_differ_end_it_and_nobody_is_blamed(family: Family) -> None:
    family.submit(2)
    scores = [score(family, index) for index in range(6)]
    for index in range(5):
        family.running(f"t~{index + 1}", index)
        family.end(f"t~{index + 1}", index, f"answer {index}", after=1)
    row = family.row("t")
    assert (row.state, row.verification) == ("FAILED", "disputed")
    assert row.reason.startswith("its 5 runs returned 5 different results")
    assert family.verdicts("t") == ["none"] * 5
    assert [score(family, index) for index in range(6)] == scores
    assert family.earned()[:5] == [PRICE] * 5


def test_a_majority_decides_after_a_while_without_those_who_wait_or_run(family: Family) -> None:
    family.submit(4)
    for index in range(3):
        family.running(f"t~{index + 1}", index)
    family.end("t~1", 0, "a")
    family.end("t~2", 1, "a")
    family.end("t~3", 2, "a")
    assert not family.is_due("t")
    assert family.row("t").state == "RUNNING"
    family.now += PATIENCE_SECONDS
    assert family.is_due("t")
    family.follow_up("t")
    assert family.row("t").state == "SUCCEEDED"
    assert family.states("t") == ["SUCCEEDED"] * 3 + ["STOPPED"]
    assert not family.is_due("t")


def test_a_run_that_is_not_needed_any_more_is_stopped_and_not_paid(family: Family) -> None:
    family.submit(3)
    for index in range(3):
        family.running(f"t~{index + 1}", index)
    family.end("t~1", 0, "a")
    family.end("t~2", 1, "a")
    family.now += 10 * PATIENCE_SECONDS
    assert family.follow_up("t").stopped == (("n2", "t~3:1"),)
    assert family.row("t~3").stop_requested
    family.end("t~3", 2, "", Outcome.STOPPED)
    assert family.states("t")[2] == "STOPPED"
    assert family.earned()[2] == 0


def test_a_stop_before_any_run_began_costs_nothing(family: Family) -> None:
    family.submit(3)
    family.place(("t~1", 0))
    follow = family.stop("t")
    assert follow is not None
    assert follow.stopped == (("n0", "t~1:1"),)
    assert family.row("t").state == "STOPPED"
    assert family.states("t") == ["PLACED", "STOPPED", "STOPPED"]
    family.end("t~1", 0, "", Outcome.STOPPED)
    assert family.states("t")[0] == "STOPPED"
    assert family.spent() == 0


def test_a_stop_pays_what_ran_and_ends_when_the_last_run_has(family: Family) -> None:
    family.submit(3)
    family.running("t~1", 0)
    family.running("t~2", 1)
    family.end("t~1", 0, "a")
    family.stop("t")
    assert family.row("t").state == "RUNNING"
    assert family.states("t") == ["SUCCEEDED", "RUNNING", "STOPPED"]
    family.end("t~2", 1, "", Outcome.STOPPED, after=61)
    row = family.row("t")
    assert (row.state, row.result_attempt) == ("STOPPED", "t~1:1")
    assert family.earned()[:3] == [PRICE, 2 * PRICE, 0]


def test_a_stop_ends_a_task_whose_runs_are_all_over_or_wait(family: Family) -> None:
    family.submit(2)
    family.running("t~1", 0)
    family.end("t~1", 0, "a")
    follow = family.stop("t")
    assert follow is not None
    assert follow.ended
    assert family.row("t").state == "STOPPED"
    assert family.earned()[0] == PRICE


def test_stops_and_ends_that_cross_leave_one_end_and_even_books(family: Family) -> None:
    for number in range(6):
        task_id = family.submit(3, f"t{number}")
        for index in range(3):
            family.running(f"{task_id}~{index + 1}", index)

        def act(which: int, task_id: str = task_id) -> None:
            if which == 3:
                family.stop(task_id)
            else:
                family.end_attempt(f"{task_id}~{which + 1}:1", which, "a")

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(act, [0, 1, 3, 2]))
        assert family.row(task_id).state in {"SUCCEEDED", "STOPPED"}
        assert family.database.read(lambda c: hold_of(c, task_id)).state == "posted"  # noqa: B023


def test_a_lost_run_waits_again_and_its_owner_may_have_it_again(family: Family) -> None:
    family.submit(2)
    family.running("t~1", 0)
    family.end("t~1", 0, "", Outcome.LOST)
    assert family.states("t") == ["QUEUED", "QUEUED"]
    assert family.place(("t~2", 0), ("t~1", 1)) == {"t~1", "t~2"}


def test_a_node_that_says_stopped_by_itself_has_no_vote_and_is_replaced(family: Family) -> None:
    family.submit(2)
    family.running("t~1", 0)
    family.end("t~1", 0, "", Outcome.STOPPED)
    assert [run.id for run in family.runs("t")] == ["t~1", "t~2", "t~3"]
    assert family.place(("t~3", 0)) == set()
    for index, run in ((1, "t~2"), (2, "t~3")):
        family.running(run, index)
        family.end(run, index, "a")
    assert family.row("t").state == "SUCCEEDED"
    assert family.earned()[:3] == [0, PRICE, PRICE]


def test_a_task_that_kills_every_node_fails_with_that_as_its_reason(family: Family) -> None:
    family.submit(2)
    for run in ("t~1", "t~2"):
        for index in range(5):
            family.place((run, index))
            family.end(run, index, "", Outcome.LOST, reason=told("it crashed"))
    row = family.row("t")
    assert (row.state, row.verification) == ("FAILED", "disputed")
    assert row.reason.startswith("it could not be verified: given up after 5 attempts")
    assert family.spent() == 0


def test_runs_that_a_crash_lost_are_made_again(family: Family) -> None:
    """A row that is not there, however that came: the sweep finds it out."""
    family.submit(3)
    family.database.write(lambda c: c.execute(delete(tasks).where(tasks.c.id == "t~2")))
    assert family.is_due("t")
    assert [run.task_id for run in family.follow_up("t").added] == ["t~4"]
    assert not family.is_due("t")
    assert family.database.read(lambda c: replica_store.undecided(c, 10)) == ["t"]
    assert family.database.read(lambda c: replica_store.undecided(c, 10, after="t")) == []


def test_other_tasks_are_not_touched(family: Family) -> None:
    task_id = family.database.write(lambda c: add_task(c, family.user_id))
    family.running(task_id, 0)
    ended = family.end(task_id, 0, "")
    assert (ended.state, ended.follow_up) == ("SUCCEEDED", None)
    assert family.row(task_id).verification == ""
    assert (
        family.database.read(lambda c: c.execute(select(func.count()).select_from(holds)).scalar_one()) == 0
    )
