"""The sweep on a real Valkey and SQLite: whatever Redis or a message lost is derived again from SQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from dispatcher.placing.placement_loop import PlacementLoop
from dispatcher.sweep.sweeper import LostLeadError, Sweeper
from nodepool.domain.ends.attempt_end import End
from nodepool.domain.resources import Claim
from nodepool.domain.tasks.reasons import told
from nodepool.domain.tasks.states import Outcome, TaskState
from nodepool.messaging import names
from nodepool.stores.redis import keys
from nodepool.stores.redis.node_registry import PENDING_SECONDS
from nodepool.stores.redis.sweep_lock import LockHolder, SweepLock
from nodepool.stores.sql import nodes as node_store, tasks as task_store
from nodepool.stores.sql.tables import tasks
from nodepool.workflows.attempt_end import end_in_sql
from tests.support.dispatchers import open_dispatcher
from tests.support.fleet import START, Fleet
from tests.support.reservations import reserve
from tests.support.stores import CLAIM, add_user, assigned_ids, attempt_of, place
from tests.support.valkey import TestValkey


@pytest.fixture
def fleet(valkey: TestValkey, tmp_path: Path) -> Iterator[Fleet]:
    now = [START]
    with open_dispatcher(valkey, tmp_path, now) as dispatcher:
        yield Fleet(dispatcher, now, dispatcher.database.write(add_user))


def test_a_flush_loses_nothing(fleet: Fleet) -> None:
    for node_id in ("n1", "n2"):
        fleet.node(node_id)
    ids = [fleet.placed() for _ in range(4)]
    fleet.sweep(after=100, heard=("n1", "n2"))
    before = {node_id: fleet.reserved(node_id) for node_id in ("n1", "n2")}
    fleet.dispatcher.redis.flushall()
    fleet.sweep(after=2)
    assert {node_id: fleet.reserved(node_id) for node_id in ("n1", "n2")} == before
    assert fleet.states(*ids) == ["PLACED"] * 4
    listed = assigned_ids(fleet.dispatcher.registry, "n1") | assigned_ids(fleet.dispatcher.registry, "n2")
    assert listed == {attempt_of(fleet.dispatcher.database, task_id) for task_id in ids}


def test_room_that_is_kept_for_a_list_that_redis_lost_is_free_with_the_next_pass(fleet: Fleet) -> None:
    fleet.node("n1")
    ended = [fleet.running() for _ in range(2)]
    fleet.sweep(after=100, heard=("n1",))
    kept = fleet.reserved("n1")
    fleet.dispatcher.redis.delete(keys.assigned("n1"))
    end = End(outcome=Outcome.SUCCEEDED, exit_code=0, reason=told(""))
    for task_id in ended:
        attempt = attempt_of(fleet.dispatcher.database, task_id)
        fleet.dispatcher.lifecycle.end_attempt(attempt, "n1", fleet.owner_id, end)
    assert fleet.reserved("n1") == kept
    fleet.sweep(after=2, heard=("n1",))
    assert fleet.reserved("n1") == Claim(0, 0, 0, 0, tasks=0)


def test_sums_that_redis_lost_are_there_again_with_the_next_pass(fleet: Fleet) -> None:
    fleet.node("n1")
    for _ in range(2):
        fleet.running()
    fleet.sweep(after=100, heard=("n1",))
    kept = fleet.reserved("n1")
    fleet.dispatcher.redis.delete(keys.reserved("n1"))
    fleet.sweep(after=2, heard=("n1",))
    assert fleet.reserved("n1") == kept


def test_output_of_attempts_that_ended_unheard_goes(fleet: Fleet) -> None:
    """Redis was away when they ended, or its keys have gone by themselves."""
    fleet.node("n1")
    live = attempt_of(fleet.dispatcher.database, fleet.placed())
    outputs = fleet.dispatcher.lifecycle.outputs
    for attempt in (live, "ended:1", "gone:1"):
        outputs.append(attempt, 0, b"said")
    fleet.dispatcher.redis.delete(keys.output("gone:1"))
    fleet.sweep(heard=("n1",))
    assert outputs.running() == {live}
    assert 0 < fleet.dispatcher.redis.ttl(keys.output("ended:1")) < 60
    assert fleet.dispatcher.redis.zscore(keys.OUTPUT_SIZES, "gone:1") is None


def test_what_a_late_node_had_goes_elsewhere(fleet: Fleet) -> None:
    fleet.node("n1")
    task_id = fleet.running()
    fleet.node("n2")
    fleet.sweep(after=30, heard=("n1", "n2"))
    fleet.silence("n1")
    fleet.sweep(after=10, heard=("n2",))
    assert fleet.row(task_id).node_id == "n1"
    fleet.sweep(after=6, heard=("n2",))
    row = fleet.row(task_id)
    assert (row.state, row.node_id, row.attempt_number) == ("PLACED", "n2", 2)
    assert fleet.reserved("n1").tasks == 0
    assert fleet.reserved("n2").tasks == 1


def test_nobody_is_late_right_after_a_start(fleet: Fleet) -> None:
    fleet.node("n1")
    task_id = fleet.running()
    fleet.silence("n1")
    fleet.now[0] += 1000
    fleet.sweeper = Sweeper(fleet.dispatcher, fleet.placement_loop)
    fleet.sweep()
    fleet.sweep(after=29)
    assert fleet.states(task_id) == ["RUNNING"]
    fleet.sweep(after=2)
    assert fleet.states(task_id) == ["QUEUED"]


def test_who_lost_the_lead_in_a_pass_gives_nothing_away_by_what_it_read_before(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.node("n1")
    task_id = fleet.running()
    fleet.node("n2")
    fleet.sweep(after=30, heard=("n1", "n2"))
    fleet.silence("n1")
    fleet.sweep(after=10, heard=("n2",))
    sweeper, redis = fleet.sweeper, fleet.dispatcher.redis
    read, other = sweeper._liveness.signs, SweepLock(redis)

    def stands_still(node_ids: list[str]) -> Any:
        signs = list(read(node_ids))
        redis.delete(keys.SWEEPER)  # its time is over
        assert other.take(60) is LockHolder.OURS_NOW
        return signs

    monkeypatch.setattr(sweeper._liveness, "signs", stands_still)
    fleet.now[0] += 6
    assert sweeper._mine(1.0)
    with pytest.raises(LostLeadError, match="may be old"):
        sweeper.sweep()
    assert fleet.row(task_id).node_id == "n1"
    assert not sweeper._mine(1.0)
    # When it leads again, whoever was late before has the full time to be heard.
    redis.delete(keys.SWEEPER)
    monkeypatch.undo()
    assert sweeper._mine(1.0)
    sweeper.sweep()
    assert (fleet.row(task_id).node_id, fleet.row(task_id).attempt_number) == ("n1", 1)


def test_when_most_of_the_fleet_vanishes_nothing_is_given_away_until_some_are_back(fleet: Fleet) -> None:
    nodes = tuple(fleet.node(f"n{number}", max_tasks=1) for number in range(6))
    ids = [fleet.running() for _ in nodes]
    fleet.sweep(after=30, heard=nodes)
    fleet.silence(*nodes)
    for _ in range(3):
        fleet.sweep(after=20)
    assert fleet.states(*ids) == ["RUNNING"] * 6
    fleet.sweep(heard=nodes[:4])
    by_node = {fleet.row(task_id).node_id: fleet.row(task_id).state for task_id in ids}
    assert by_node == {**dict.fromkeys(nodes[:4], "RUNNING"), "": "QUEUED"}


def test_a_task_whose_hint_was_lost_is_placed(fleet: Fleet) -> None:
    fleet.node("n1")
    task_id = fleet.task()
    fleet.sweep(after=1)
    assert fleet.states(task_id) == ["PLACED"]


def test_a_task_that_finds_no_node_is_told_again_and_says_why(fleet: Fleet) -> None:
    fleet.node("n1")
    task_id = fleet.task(cpu_score=1_000_000)
    fleet.sweep(after=1)
    assert "too small" in fleet.row(task_id).reason
    assert fleet.hints("high.any") == 0
    fleet.now[0] += 5
    fleet.sweep(after=5, heard=("n1",))
    assert fleet.hints("high.any") == 1
    fleet.sweep(after=1, heard=("n1",))
    assert fleet.hints("high.any") == 1


def test_dispatchers_that_are_behind_are_not_told_more_and_more(fleet: Fleet) -> None:
    for number in range(30):
        fleet.task(cpu_score=1_000_000 + number)
    with fleet.dispatcher.redis.pipeline() as pipe:
        pipe.rpush("high.any", *["x"] * 990)
        pipe.execute()
    for _ in range(3):
        fleet.sweep(after=60)
    assert fleet.hints("high.any") == 1000


def test_a_reservation_without_an_attempt_is_taken_back_once_it_cannot_come_any_more(fleet: Fleet) -> None:
    fleet.node("n1")
    reserve(fleet.dispatcher.registry, "n1", "crashed:1", CLAIM, at=fleet.now[0])
    fleet.sweep(after=1, heard=("n1",))
    assert fleet.reserved("n1").tasks == 1
    fleet.sweep(after=PENDING_SECONDS, heard=("n1",))
    assert fleet.reserved("n1").tasks == 0
    assert assigned_ids(fleet.dispatcher.registry, "n1") == set()


def end_untold(fleet: Fleet, task_id: str) -> None:
    """The attempt's end is kept in SQL while Redis is away: nothing of it is told."""
    dispatcher, now = fleet.dispatcher, fleet.now[0]
    row = fleet.row(task_id)
    attempt_id = attempt_of(dispatcher.database, task_id)
    owner_id = dispatcher.database.read(lambda c: node_store.find(c, row.node_id)).owner_id
    end = End(outcome=Outcome.STOPPED, exit_code=None, reason=told("it was stopped"))
    dispatcher.database.write(
        lambda c: end_in_sql(c, attempt_id, row.node_id, owner_id, end, settings=dispatcher.settings, now=now)
    )


def test_the_room_of_an_end_that_redis_was_not_told_of_is_free_after_one_pass(fleet: Fleet) -> None:
    fleet.node("n1", max_tasks=1)
    first = fleet.placed()
    second = fleet.task()
    fleet.sweep(after=1, heard=("n1",))
    assert fleet.states(first, second) == ["PLACED", "QUEUED"]
    end_untold(fleet, first)
    fleet.sweep(after=1, heard=("n1",))
    assert fleet.states(first, second) == ["STOPPED", "PLACED"]
    assert fleet.reserved("n1").tasks == 1


def test_who_writes_a_node_anew_frees_what_has_ended_and_keeps_what_may_be_committed(fleet: Fleet) -> None:
    fleet.node("n1", max_tasks=2)
    first = fleet.placed()
    registry = fleet.dispatcher.registry
    reserve(registry, "n1", "about to be:1", CLAIM, at=fleet.now[0])
    end_untold(fleet, first)
    fleet.dispatcher.lifecycle.sync_node("n1")
    assert assigned_ids(registry, "n1") == {"about to be:1"}
    assert fleet.reserved("n1").tasks == 1


def test_a_placement_that_commits_after_the_sweep_read_sql_keeps_its_reservation(fleet: Fleet) -> None:
    fleet.node("n1", max_tasks=1)
    task_id = fleet.task()
    dispatcher = fleet.dispatcher
    assert reserve(dispatcher.registry, "n1", f"{task_id}:1", CLAIM, at=fleet.now[0]) == "ok"
    dispatcher.lifecycle.sync_node("n1")
    assert reserve(dispatcher.registry, "n1", "another:1", CLAIM, at=fleet.now[0]) == "full tasks"
    assert dispatcher.database.write(lambda c: place(c, task_id, "n1", now=fleet.now[0]))
    fleet.sweep(after=1, heard=("n1",))
    assert fleet.reserved("n1").tasks == 1


def test_an_attempt_that_its_living_node_does_not_have_ends(fleet: Fleet) -> None:
    fleet.node("n1")
    task_id = fleet.running()
    forgetful = json.dumps({"cpu_percent": 1, "memory_percent": 1, "running": []})
    # Long after any start: what its node does not have then is its node's doing.
    fleet.sweep(after=90, heard=("n1",))
    for _ in range(8):
        fleet.dispatcher.redis.set(keys.report("n1"), forgetful, ex=60)
        fleet.sweep(after=5)
    assert fleet.row(task_id).attempts_ended == 1


def test_what_a_node_that_left_still_had_goes_back(fleet: Fleet) -> None:
    fleet.node("n1")
    task_id = fleet.placed()
    fleet.dispatcher.database.write(lambda c: node_store.deactivate(c, "n1"))
    fleet.sweep(after=1)
    assert fleet.states(task_id) == ["QUEUED"]
    assert fleet.dispatcher.registry.node_ids() == set()


def test_a_node_that_changed_in_sql_is_brought_in_line(fleet: Fleet) -> None:
    fleet.node("n1")
    fleet.dispatcher.database.write(lambda c: node_store.set_draining(c, "n1", draining=True))
    fleet.sweep(heard=("n1",))
    assert not fleet.place(fleet.task())


def test_a_stop_that_redis_missed_is_told_again(fleet: Fleet) -> None:
    fleet.node("n1")
    task_id = fleet.placed()
    fleet.dispatcher.database.write(lambda c: task_store.request_stop(c, task_id, fleet.now[0]))
    fleet.sweep(heard=("n1",))
    entry = json.loads(
        fleet.dispatcher.redis.hget(keys.assigned("n1"), attempt_of(fleet.dispatcher.database, task_id))
        or b""
    )
    assert (entry["stop"], entry["at"]) == (True, START)


def test_a_report_full_of_lies_does_not_stop_the_sweep(fleet: Fleet) -> None:
    fleet.node("n1")
    task_id = fleet.task()
    lie = b'{"cpu_percent": 1' + b"0" * 400 + b', "memory_percent": 0, "running": []}'
    fleet.dispatcher.redis.set(keys.report("n1"), lie, ex=60)
    fleet.sweep(after=1)
    assert fleet.states(task_id) == ["PLACED"]


def test_of_tasks_with_equal_needs_none_is_tried_after_the_first_that_fails(fleet: Fleet) -> None:
    fleet.node("n1", max_tasks=2)
    ids = [fleet.task() for _ in range(5)]
    assert fleet.place(*ids) == 2
    assert sorted(fleet.states(*ids)) == ["PLACED"] * 2 + ["QUEUED"] * 3


def test_an_end_frees_the_node_and_asks_for_the_waiting(fleet: Fleet) -> None:
    fleet.node("n1", max_tasks=1)
    first, second = fleet.placed(), fleet.task()
    assert not fleet.place(second)
    end = End(outcome=Outcome.LOST, exit_code=None, reason=told("no"))
    fleet.dispatcher.lifecycle.end_attempt(
        attempt_of(fleet.dispatcher.database, first), "n1", fleet.owner_id, end
    )
    assert fleet.reserved("n1").tasks == 0
    assert fleet.hints(names.partition_queue("high", "any")) == 1
    assert fleet.place(second) == 1


def test_a_task_that_moved_while_it_was_placed_leaves_no_reservation(fleet: Fleet) -> None:
    fleet.node("n1", max_tasks=1)
    fleet.placed()
    task_id = fleet.task()
    assert not fleet.place(task_id)
    fleet.dispatcher.database.write(lambda c: task_store.request_stop(c, task_id, fleet.now[0]))
    fleet.node("n2")
    assert not fleet.place()
    assert fleet.reserved("n2").tasks == 0
    assert assigned_ids(fleet.dispatcher.registry, "n2") == set()


def test_the_loser_of_two_placements_leaves_the_winners_reservation(fleet: Fleet) -> None:
    task_id = fleet.task()
    other = PlacementLoop(fleet.dispatcher)
    other.hint(task_id)
    assert not other.work()
    assert not fleet.place(task_id)
    fleet.node("n1")
    assert fleet.place() == 1
    other.look_again()
    assert not other.work()
    assert assigned_ids(fleet.dispatcher.registry, "n1") == {attempt_of(fleet.dispatcher.database, task_id)}
    assert fleet.reserved("n1").tasks == 1


def test_a_hint_of_a_task_that_is_not_there_or_done_does_nothing(fleet: Fleet) -> None:
    fleet.node("n1")
    assert not fleet.place("nobody's")
    task_id = fleet.task()
    fleet.dispatcher.database.write(
        lambda c: c.execute(update(tasks).where(tasks.c.id == task_id).values(state=TaskState.FAILED))
    )
    assert not fleet.place(task_id)
    assert fleet.reserved("n1").tasks == 0
