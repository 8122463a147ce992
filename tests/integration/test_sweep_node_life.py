"""The sweep and the life of nodes: the brake and its end, work that is never begun, the pool's pace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.sweep.reconciler import RotatingSlices
from nodepool.domain.errors import UnavailableError
from nodepool.stores.redis import keys
from nodepool.stores.redis.liveness import CHUNK_NODES, Liveness
from nodepool.stores.sql import nodes as node_store
from tests.support.dispatchers import open_dispatcher
from tests.support.fleet import START, Fleet
from tests.support.stores import add_user
from tests.support.valkey import TestValkey

LATE = 15.0
SIX = tuple(f"n{number}" for number in range(6))


@pytest.fixture
def fleet(valkey: TestValkey, tmp_path: Path) -> Iterator[Fleet]:
    now = [START]
    with open_dispatcher(valkey, tmp_path, now) as dispatcher:
        yield Fleet(dispatcher, now, dispatcher.database.write(add_user))


@pytest.fixture
def braked(fleet: Fleet) -> tuple[Fleet, list[str]]:
    """Six nodes with work that have vanished at once, and their tasks."""
    for node_id in SIX:
        fleet.node(node_id, max_tasks=1)
    ids = [fleet.running() for _ in SIX]
    fleet.sweep(after=30, heard=SIX)
    fleet.silence(*SIX)
    fleet.sweep(after=20)
    assert fleet.states(*ids) == ["RUNNING"] * 6
    return fleet, ids


def test_an_operator_ends_the_brake_when_the_nodes_are_really_gone(braked: tuple[Fleet, list[str]]) -> None:
    fleet, ids = braked
    fleet.dispatcher.redis.set(keys.RELEASE, "1", ex=300)
    fleet.sweep(after=2)
    assert fleet.states(*ids) == ["QUEUED"] * 6


def _lab(fleet: Fleet, lab: str, witnesses: tuple[str, ...]) -> tuple[list[str], tuple[str, ...]]:
    """Six nodes with work in a lab, and a node without any for each of these addresses; all are heard."""
    for node_id in SIX:
        fleet.node(node_id, max_tasks=1, peer_address=lab)
    tasks = [fleet.running() for _ in SIX]
    others = tuple(fleet.node(f"w{number}", peer_address=it) for number, it in enumerate(witnesses))
    fleet.sweep(after=90, heard=(*SIX, *others))
    return tasks, others


@pytest.mark.parametrize(
    ("lab", "witnesses", "goes_on"),
    [
        ("9.9.9.9", ("8.8.8.8", "1.1.1.1"), False),
        ("9.9.9.9", ("9.9.9.9", "9.9.9.9"), False),  # the next room
        ("192.168.1.4", ("192.168.1.5", "1.1.1.1"), False),
        ("9.9.9.9", ("8.8.8.8",), True),
        ("9.9.9.9", ("127.0.0.1", "192.168.1.5", "10.0.0.1"), True),  # our line to the world is cut
        ("", ("8.8.8.8", ""), True),
    ],
)
def test_a_lab_that_loses_power_gives_its_work_away_at_once_and_nobody_is_blamed(
    fleet: Fleet, lab: str, witnesses: tuple[str, ...], *, goes_on: bool
) -> None:
    tasks, others = _lab(fleet, lab, witnesses)
    # Their last reports were not all of one moment.
    fleet.silence(*SIX[:3])
    fleet.sweep(after=4, heard=(*SIX[3:], *others))
    fleet.silence(*SIX)
    fleet.sweep(after=LATE - 6, heard=others)
    assert fleet.states(*tasks) == ["RUNNING"] * 6
    fleet.sweep(after=7, heard=others)
    if goes_on:
        assert fleet.states(*tasks) == ["RUNNING"] * 6
        return
    assert "RUNNING" not in fleet.states(*tasks)
    assert {fleet.row(task_id).attempts_ended for task_id in tasks} == {0}
    history = fleet.dispatcher.database.read(
        lambda c: [node_store.find(c, node_id).history.bad for node_id in SIX]
    )
    assert history == [0.0] * 6


def test_while_the_pool_itself_was_away_lately_a_lab_keeps_its_work(fleet: Fleet) -> None:
    tasks, others = _lab(fleet, "9.9.9.9", ("8.8.8.8", "1.1.1.1"))
    fleet.silence(*SIX)
    fleet.sweep(after=8, heard=others)
    fleet.sweeper._failed(UnavailableError("Redis does not answer"))
    fleet.now[0] += 6
    fleet.sweep(after=1, heard=others)
    fleet.sweep(after=40, heard=others)
    assert fleet.states(*tasks) == ["RUNNING"] * 6
    fleet.sweep(after=40, heard=others)
    assert "RUNNING" not in fleet.states(*tasks)


def test_redis_that_was_away_lets_nobody_be_late(fleet: Fleet) -> None:
    fleet.node("n1")
    task_id = fleet.running()
    fleet.sweep(after=30, heard=("n1",))
    fleet.silence("n1")
    fleet.now[0] += 14
    fleet.sweeper._failed(UnavailableError("Redis does not answer"))
    fleet.sweep()
    fleet.sweep(after=2 * LATE - 1)
    assert fleet.states(task_id) == ["RUNNING"]
    fleet.sweep(after=2)
    assert fleet.states(task_id) == ["QUEUED"]
    # The node may have done what it could: it is not blamed, and this is no attempt that counts.
    assert fleet.row(task_id).attempts_ended == 0


def test_a_dispatcher_that_stood_still_lets_nobody_be_late(fleet: Fleet) -> None:
    fleet.node("n1")
    task_id = fleet.running()
    fleet.sweep(after=30, heard=("n1",))
    # Everything was stopped: reports have no life left, and nobody wrote another one.
    fleet.silence("n1")
    fleet.now[0] += 180
    fleet.sweep()
    fleet.sweep(after=10)
    assert fleet.states(task_id) == ["RUNNING"]
    # It is heard again, and then dies by itself.
    fleet.sweep(after=4, heard=("n1",))
    fleet.silence("n1")
    fleet.sweep(after=LATE + 2)
    assert fleet.states(task_id) == ["QUEUED"]


def test_a_node_that_dies_in_good_times_is_known_after_its_time_and_blamed(fleet: Fleet) -> None:
    fleet.node("n1")
    task_id = fleet.running()
    for _ in range(20):
        fleet.sweep(after=5, heard=("n1",))
    fleet.silence("n1")
    fleet.sweep(after=LATE - 1)
    assert fleet.states(task_id) == ["RUNNING"]
    fleet.sweep(after=1.5)
    assert (fleet.states(task_id), fleet.row(task_id).attempts_ended) == (["QUEUED"], 1)


def test_a_node_that_only_a_gateway_without_redis_hears_is_not_late(fleet: Fleet) -> None:
    fleet.node("n1")
    task_id = fleet.running()
    fleet.sweep(after=30, heard=("n1",))
    fleet.silence("n1")
    for second in range(12):
        fleet.dispatcher.database.write(lambda c: node_store.note_heard(c, "n1", 1.0 + second))  # noqa: B023
        fleet.sweep(after=5)
    assert fleet.states(task_id) == ["RUNNING"]
    fleet.sweep(after=LATE + 1)
    assert fleet.states(task_id) == ["QUEUED"]


def test_without_a_gateway_nobody_is_late(fleet: Fleet) -> None:
    fleet.node("n1")
    task_id = fleet.running()
    fleet.sweep(after=30, heard=("n1",))
    fleet.silence("n1")
    fleet.dispatcher.redis.delete(keys.GATEWAY)
    fleet.gateway_serves = False
    fleet.sweep(after=100)
    fleet.gateway_serves = True
    fleet.sweep(after=1)
    fleet.sweep(after=2 * LATE - 1)
    assert fleet.states(task_id) == ["RUNNING"]
    fleet.sweep(after=2)
    assert fleet.states(task_id) == ["QUEUED"]


def keep_listed(fleet: Fleet, seconds: float, *, gateway: bool) -> None:
    """The node goes on to say that it has everything; a gateway serves all the time, or does not."""
    fleet.gateway_serves = gateway
    if not gateway:
        fleet.dispatcher.redis.delete(keys.GATEWAY)
    for _ in range(int(seconds)):
        fleet.sweep(after=1, heard=("n1",))


def test_work_that_a_living_node_never_begins_goes_elsewhere(fleet: Fleet) -> None:
    fleet.node("n1")
    # What was there before its start, a dispatcher holds against nobody.
    fleet.sweep(after=1, heard=("n1",))
    task_id = fleet.placed()
    keep_listed(fleet, 2 * LATE - 1, gateway=True)
    assert (fleet.row(task_id).state, fleet.row(task_id).attempts_ended) == ("PLACED", 0)
    fleet.node("n2")
    fleet.report("n2")
    keep_listed(fleet, 3, gateway=True)
    row = fleet.row(task_id)
    assert (row.state, row.node_id, row.attempts_ended) == ("PLACED", "n2", 1)


def test_no_node_is_blamed_for_what_no_gateway_let_it_begin(fleet: Fleet) -> None:
    fleet.node("n1")
    task_id = fleet.placed()
    keep_listed(fleet, 10 * LATE, gateway=False)
    keep_listed(fleet, 2 * LATE - 1, gateway=True)
    assert fleet.row(task_id).attempts_ended == 0
    keep_listed(fleet, 4, gateway=True)
    # Perhaps it could not yet: the next one is another attempt, and this one counts for nothing.
    assert (fleet.row(task_id).attempt_number, fleet.row(task_id).attempts_ended) == (2, 0)


def test_the_sweep_says_how_often_to_report(fleet: Fleet) -> None:
    fleet.node("n1")
    fleet.sweep(after=1)
    assert fleet.dispatcher.redis.get(keys.PACE) == b"3"
    assert 0 < fleet.dispatcher.redis.ttl(keys.PACE) <= keys.PACE_TTL_SECONDS


def test_a_flush_of_more_nodes_than_one_statement_takes_is_made_good_in_one_pass(fleet: Fleet) -> None:
    ids = [f"n{number:04}" for number in range(CHUNK_NODES + 10)]
    for node_id in ids:
        fleet.node(node_id)
    fleet.sweep(after=1)
    fleet.dispatcher.redis.flushall()
    fleet.sweep(after=1)
    assert fleet.dispatcher.registry.node_ids() == set(ids)
    assert len(fleet.dispatcher.registry.snapshot(LATE)) == len(ids)


def test_signs_are_in_the_order_of_the_ids_and_count_what_is_listed(fleet: Fleet) -> None:
    ids = [f"n{number}" for number in range(CHUNK_NODES + 3)]
    redis = fleet.dispatcher.redis
    redis.set(keys.report(ids[-1]), "x", px=50_000)
    redis.set(keys.report(ids[0]), "x", ex=600)
    redis.hset(keys.assigned(ids[1]), mapping={"a:1": "{}", "b:1": "{}"})
    signs = list(Liveness(redis).signs(ids))
    assert [sign.listed for sign in signs[:3]] == [0, 2, 0]
    assert 10.0 <= signs[-1].age_seconds < 15.0
    # One that would live longer than a report does is none.
    assert {sign.age_seconds for sign in signs[:-1]} == {float("inf")}


def test_a_change_in_sql_is_found_in_every_part_of_a_large_fleet() -> None:
    turns, ids = RotatingSlices(within_passes=4, at_least=10), [f"n{number}" for number in range(100)]
    parts = [turns.take(ids) for _ in range(4)]
    assert {len(part) for part in parts} == {25}
    assert {node_id for part in parts for node_id in part} == set(ids)
    assert turns.take(ids) == parts[0]
    assert turns.take(ids[:10]) == ids[:10]


def test_facts_that_went_wrong_in_redis_are_found(fleet: Fleet) -> None:
    fleet.node("n1")
    fleet.sweep(heard=("n1",))
    fleet.dispatcher.redis.hset(keys.facts("n1"), "capacity_tasks", 1000)
    fleet.dispatcher.database.write(lambda c: node_store.set_draining(c, "n1", draining=True))
    fleet.sweep(after=1, heard=("n1",))
    (view,) = fleet.dispatcher.registry.snapshot(LATE)
    assert (view.capacity.tasks, view.draining) == (8, True)
