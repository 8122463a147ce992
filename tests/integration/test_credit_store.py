"""Credit scores in SQL, on SQLite and PostgreSQL: moved once by every end, with its reason, within bounds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import Row, select, update

from nodepool.domain.ends.attempt_end import End
from nodepool.domain.errors import InvalidInputError, StaleAttemptError
from nodepool.domain.tasks.reasons import told
from nodepool.domain.tasks.states import Outcome
from nodepool.domain.trust import credit_moves
from nodepool.domain.trust.credit import DAY_SECONDS, DRIFT_SECONDS, HIGHEST_SCORE, Cause
from nodepool.domain.trust.credit_moves import NewChange
from nodepool.domain.trust.voting import Finding
from nodepool.settings import Settings
from nodepool.stores.sql import (
    credit as credit_store,
    nodes as node_store,
    placements as placing,
    tasks as task_store,
)
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.placements import Placement
from nodepool.stores.sql.tables import nodes, tasks, users
from nodepool.workflows.attempt_end import Ended, end_in_sql
from tests.support.stores import CLAIM, add_node, add_task, add_user, migrated

START = 50
SETTINGS = Settings(max_attempts=5)


@dataclass
class Pool:
    """Tasks of one user on a node of another, on a clock that the test moves."""

    database: Database
    user_id: int
    owner_id: int
    now: float = 1_000_000.0
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(10**6)))

    def started(self, *, owner_id: int = 0, node_id: str = "n1", **columns: Any) -> str:
        columns = {"created_at": self.now, "queued_at": self.now, **columns}
        task_id = self.database.write(
            lambda c: add_task(c, owner_id or self.user_id, f"t{next(self.numbers)}", **columns)
        )
        return self.again(task_id, 1, node_id)

    def again(self, task_id: str, number: int, node_id: str = "n1") -> str:
        placement = Placement(task_id, number, node_id, CLAIM, f"{task_id}:{number}")
        assert self.database.write(lambda c: placing.place_all(c, [placement], self.now)).placed
        attempt_id = f"{task_id}:{number}"
        self.database.write(
            lambda c: task_store.claim_attempt(c, attempt_id, node_id, self.owner_id, self.now)
        )
        return attempt_id

    def end(self, attempt_id: str, outcome: Outcome, node_id: str = "n1", **facts: Any) -> Ended:
        end = End(outcome=outcome, exit_code=0, reason=told("so it was"), **facts)
        return self.database.write(
            lambda c: end_in_sql(c, attempt_id, node_id, self.owner_id, end, settings=SETTINGS, now=self.now)
        )

    def ran(self, outcome: Outcome, *, owner_id: int = 0, **facts: Any) -> Ended:
        return self.end(self.started(owner_id=owner_id), outcome, **facts)

    def found(self, finding: Finding, event: str, *, task_owner_id: int = 0) -> frozenset[int]:
        changes = credit_moves.of_finding(
            finding,
            attempt_id=event,
            task_id="t",
            node_id="n1",
            provider_id=self.owner_id,
            task_owner_id=task_owner_id or self.user_id,
        )
        return self.move(*changes)

    def move(self, *changes: NewChange) -> frozenset[int]:
        return self.database.write(lambda c: credit_store.move(c, changes, start=START, now=self.now))

    def set(self, score: int, act: str = "") -> frozenset[int]:
        return self.database.write(
            lambda c: credit_store.set_score(
                c, self.owner_id, score, act=act or f"{self.now}", reason="", start=START, now=self.now
            )
        )

    def score(self, user_id: int = 0) -> int:
        query = select(users.c.credit_score).where(users.c.id == (user_id or self.owner_id))
        return int(self.database.read(lambda c: c.execute(query).scalar_one()))

    def history(self, limit: int = 100, before_seq: int = 0) -> list[Row[Any]]:
        return list(self.database.read(lambda c: credit_store.history(c, self.owner_id, limit, before_seq)))

    def kinds(self) -> list[str]:
        return [row.kind for row in reversed(self.history())]


@pytest.fixture
def pool(database_url: str) -> Iterator[Pool]:
    with migrated(database_url) as database:
        user_id = database.write(lambda c: add_user(c, "user", credit_score=START))
        owner_id = database.write(lambda c: add_user(c, "owner", credit_score=START))
        for account in (user_id, owner_id):
            database.write(lambda c, user=account: ledger_store.open_account(c, user, grant=10, now=0.0))
        database.write(lambda c: add_node(c, owner_id, "n1"))
        yield Pool(database, user_id, owner_id)


def test_whose_tasks_bring_down_several_owners_nodes_costs_the_others_nothing(pool: Pool) -> None:
    """A program that kills agents would be a weapon: each of its tasks would cost another honest owner."""
    first, owners = pool.owner_id, [pool.owner_id]
    for number in (2, 3):
        owners.append(pool.database.write(lambda c: add_user(c, f"owner{number}", credit_score=START)))  # noqa: B023
        node = (owners[-1], f"n{number}")
        pool.database.write(lambda c: ledger_store.open_account(c, node[0], grant=10, now=0.0))  # noqa: B023
        pool.database.write(lambda c: add_node(c, *node))  # noqa: B023

    def lost(number: int, by: int = 0) -> tuple[int, int]:
        """On the node of this owner: the score, and the losses in a row that its history has."""
        pool.owner_id, node_id = owners[number - 1], f"n{number}"
        pool.end(pool.started(node_id=node_id, owner_id=by), Outcome.LOST, node_id)
        streak = select(nodes.c.bad_streak).where(nodes.c.id == node_id)
        return pool.score(), int(pool.database.read(lambda c: c.execute(streak).scalar_one()))

    assert lost(1) == (START - 2, 1)
    assert lost(2) == (START - 2, 1)
    assert lost(3) == (START, 0)
    assert lost(1) == (START - 2, 1)
    # Another user's is no weapon, and a day later the first one's is none any more.
    somebody = pool.database.write(lambda c: add_user(c, "somebody", credit_score=START))
    assert lost(3, by=somebody) == (START - 2, 1)
    pool.now += DAY_SECONDS + 1
    assert lost(3)[0] == START - 4
    pool.owner_id = first


@pytest.mark.parametrize(
    ("outcome", "facts", "cause", "delta"),
    [
        (Outcome.LOST, {}, Cause.LOST, -2),
        (Outcome.FAILED, {"late": True}, Cause.LATE, -3),
        (Outcome.STOPPED, {"late": True}, Cause.LATE, -3),
    ],
)
def test_an_end_moves_the_score_of_the_nodes_owner(
    pool: Pool, outcome: Outcome, facts: dict[str, Any], cause: Cause, delta: int
) -> None:
    attempt_id = pool.started()
    pool.end(attempt_id, outcome, **facts)
    assert pool.score() == START + delta
    assert pool.score(pool.user_id) == START
    (row,) = pool.history()
    assert (row.id, row.kind, row.delta, row.score_after) == (
        f"{cause}:{attempt_id}",
        cause,
        delta,
        START + delta,
    )
    assert (row.task_id, row.node_id, row.created_at) == (attempt_id.split(":")[0], "n1", pool.now)
    assert row.reason


@pytest.mark.parametrize(
    ("outcome", "facts"),
    [
        (Outcome.SUCCEEDED, {}),
        (Outcome.FAILED, {}),
        (Outcome.STOPPED, {}),
        (Outcome.REFUSED, {}),
        (Outcome.LOST, {"blameless": True}),
        (Outcome.REFUSED, {"blameless": True}),
    ],
)
def test_ends_that_are_nobodys_fault_move_nothing(
    pool: Pool, outcome: Outcome, facts: dict[str, Any]
) -> None:
    pool.ran(outcome, **facts)
    assert (pool.score(), pool.history()) == (START, [])


@pytest.mark.parametrize("outcome", list(Outcome))
def test_nobodys_own_tasks_move_his_score(pool: Pool, outcome: Outcome) -> None:
    pool.ran(outcome, owner_id=pool.owner_id)
    assert (pool.score(), pool.history()) == (START, [])
    assert not pool.found(Finding.VERIFIED, "own:1", task_owner_id=pool.owner_id)
    pool.found(Finding.DIFFERED, "own:2", task_owner_id=pool.owner_id)
    assert pool.score() == START


def test_an_end_that_is_told_twice_moves_the_score_once(pool: Pool) -> None:
    attempt_id = pool.started()
    pool.end(attempt_id, Outcome.LOST)
    with_repeat = pool.score()
    with contextlib.suppress(StaleAttemptError):
        assert not pool.end(attempt_id, Outcome.LOST).changed
    assert pool.score() == with_repeat == START - 2


def test_an_event_has_effect_once_however_often_it_is_told(pool: Pool) -> None:
    for _ in range(3):
        pool.found(Finding.DIFFERED, "t9:1")
    assert pool.score() == START - 25
    assert pool.kinds() == [Cause.DIFFERED]


def test_what_a_draining_node_hands_back_and_what_a_node_that_left_had_move_nothing(pool: Pool) -> None:
    first, second = pool.started(), pool.started()
    pool.database.write(lambda c: node_store.set_draining(c, "n1", draining=True))
    pool.end(first, Outcome.REFUSED)
    pool.database.write(lambda c: node_store.deactivate(c, "n1"))
    pool.end(second, Outcome.LOST)
    assert (pool.score(), pool.history()) == (START, [])


def test_a_node_that_is_lost_while_it_drains_is_lost(pool: Pool) -> None:
    attempt_id = pool.started()
    pool.database.write(lambda c: node_store.set_draining(c, "n1", draining=True))
    pool.end(attempt_id, Outcome.LOST)
    assert pool.kinds() == [Cause.LOST]


def test_a_task_that_was_lost_before_blames_nobody_else(pool: Pool) -> None:
    attempt_id = pool.started()
    pool.end(attempt_id, Outcome.LOST)
    task_id = attempt_id.split(":")[0]
    pool.end(pool.again(task_id, 2), Outcome.LOST)
    assert pool.kinds() == [Cause.LOST]


def test_a_task_whose_owner_stopped_it_blames_nobody(pool: Pool) -> None:
    attempt_id = pool.started()
    pool.database.write(lambda c: task_store.request_stop(c, attempt_id.split(":")[0], pool.now))
    pool.end(attempt_id, Outcome.LOST)
    assert pool.history() == []


def test_one_power_cut_costs_no_more_than_a_day_may(pool: Pool) -> None:
    for attempt_id in [pool.started() for _ in range(8)]:
        pool.end(attempt_id, Outcome.LOST)
    assert pool.score() == START - 10
    pool.now += DAY_SECONDS + 1
    pool.ran(Outcome.LOST)
    assert pool.score() == START - 12


def test_verified_results_count_five_a_day(pool: Pool) -> None:
    for number in range(20):
        pool.found(Finding.VERIFIED, f"v{number}:1")
    assert pool.score() == START + 5
    pool.now += DAY_SECONDS + 1
    pool.found(Finding.VERIFIED, "v100:1")
    assert pool.score() == START + 6


def test_an_unchecked_success_on_a_low_node_earns_nothing(pool: Pool) -> None:
    pool.database.write(lambda c: c.execute(update(nodes).values(docker_status="unavailable")))
    pool.ran(Outcome.SUCCEEDED)
    assert pool.history() == []


def test_a_run_that_will_be_compared_earns_nothing_before_it_was(pool: Pool) -> None:
    attempt_id = pool.started()
    pool.database.write(lambda c: c.execute(update(tasks).values(parent_id="t")))
    pool.end(attempt_id, Outcome.SUCCEEDED)
    assert pool.history() == []


def test_an_undecided_comparison_says_nothing(pool: Pool) -> None:
    pool.found(Finding.UNDECIDED, "u:1")
    assert pool.history() == []


def test_a_score_never_leaves_its_bounds(pool: Pool) -> None:
    for number in range(5):
        pool.found(Finding.DIFFERED, f"d{number}:1")
    assert pool.score() == 0
    assert [row.delta for row in pool.history()] == [-25, -25]
    pool.set(HIGHEST_SCORE)
    pool.found(Finding.VERIFIED, "top:1")
    assert pool.score() == HIGHEST_SCORE
    with pytest.raises(InvalidInputError):
        pool.set(HIGHEST_SCORE + 1)


def test_who_has_another_tier_now_is_told_to_the_caller(pool: Pool) -> None:
    assert pool.ran(Outcome.LOST).tiers_changed == {pool.owner_id}
    assert pool.ran(Outcome.LOST).tiers_changed == frozenset()
    assert pool.set(100) == {pool.owner_id}
    assert pool.set(120, "other") == frozenset()


def test_the_operator_sets_a_score_once_with_a_reason(pool: Pool) -> None:
    pool.set(300, "act-1")
    pool.set(10, "act-1")
    assert pool.score() == 300
    (row,) = pool.history()
    assert (row.kind, row.delta, row.reason) == (Cause.ADMIN, 250, "set by the operator")


def test_a_score_drifts_back_when_something_else_moves_it(pool: Pool) -> None:
    pool.set(80)
    pool.now += 3 * DRIFT_SECONDS + 5
    pool.found(Finding.VERIFIED, "v:1")
    assert pool.score() == 78
    assert pool.kinds() == [Cause.ADMIN, Cause.DECAY, Cause.VERIFIED]
    assert [row.score_after for row in reversed(pool.history())] == [80, 77, 78]


def test_a_score_that_nothing_moves_drifts_with_the_sweep(pool: Pool) -> None:
    pool.set(48)

    def drift() -> frozenset[int]:
        return pool.database.write(lambda c: credit_store.drift_all(c, start=START, now=pool.now, limit=10))

    assert drift() == frozenset()
    assert pool.score() == 48
    pool.now += DRIFT_SECONDS
    assert drift() == frozenset()
    assert pool.score() == 49
    pool.now += DRIFT_SECONDS
    assert drift() == {pool.owner_id}
    assert pool.score() == START
    pool.now += 10 * DRIFT_SECONDS
    assert drift() == frozenset()
    assert pool.score() == START


def test_scores_of_before_begin_to_drift_when_they_are_first_seen(pool: Pool) -> None:
    pool.database.write(lambda c: c.execute(update(users).values(credit_score=500)))
    pool.database.write(lambda c: credit_store.drift_all(c, start=START, now=pool.now, limit=10))
    assert pool.score() == 500
    pool.now += DRIFT_SECONDS
    pool.database.write(lambda c: credit_store.drift_all(c, start=START, now=pool.now, limit=10))
    assert pool.score() == 499


def test_unfinished_tasks_get_the_tier_of_their_owners_score(pool: Pool) -> None:
    waiting = pool.database.write(lambda c: add_task(c, pool.owner_id, "mine", tier="normal"))
    ended = pool.database.write(lambda c: add_task(c, pool.owner_id, "done", tier="high", state="SUCCEEDED"))
    probe = pool.database.write(lambda c: add_task(c, pool.owner_id, "probe", tier="high", kind="probe"))
    other = pool.database.write(lambda c: add_task(c, pool.user_id, "other", tier="normal"))
    pool.found(Finding.DIFFERED, "d:1")
    assert pool.database.read(credit_store.owners_of_stale_tasks) == {pool.owner_id}
    pool.database.write(lambda c: credit_store.retier(c, pool.owner_id))
    assert pool.database.read(credit_store.owners_of_stale_tasks) == frozenset()

    def tiers() -> dict[str, str]:
        rows = pool.database.read(lambda c: c.execute(select(tasks.c.id, tasks.c.tier)).all())
        return {row.id: row.tier for row in rows}

    assert tiers() == {waiting: "low", ended: "high", probe: "high", other: "normal"}
    pool.set(200)
    pool.database.write(lambda c: credit_store.retier(c, pool.owner_id))
    assert tiers()[waiting] == "high"


def test_the_history_is_told_in_pages_newest_first(pool: Pool) -> None:
    for number in range(5):
        pool.found(Finding.VERIFIED, f"v{number}:1")
    first = pool.history(limit=2)
    second = pool.history(limit=10, before_seq=first[-1].seq)
    assert [row.id for row in (*first, *second)] == [f"verified:v{number}:1" for number in (4, 3, 2, 1, 0)]


def test_forty_events_at_once_move_the_score_as_one_after_the_other_would(pool: Pool) -> None:
    """Bounds of the day, too: nobody counts what another one is about to add."""

    def tell(number: int) -> None:
        # Each is told twice.
        pool.found(Finding.VERIFIED, f"v{number // 2}:1")

    with ThreadPoolExecutor(20) as threads:
        list(threads.map(tell, range(40)))
    assert pool.score() == START + 5
    rows = list(reversed(pool.history()))
    assert [row.score_after for row in rows] == list(range(START + 1, START + 6))
    assert len({row.id for row in rows}) == 5
