"""Who is late and whether that is believed: pure, with a clock in the test's hand."""

from __future__ import annotations

import math

from dispatcher.sweep.failure_detector import BRAKE_MIN_NODES, BRAKE_PERIODS, ExpectedNode, FailureDetector
from nodepool.stores.redis.liveness import NodeHeartbeat

LATE = 15.0
START = 1000.0
NOBODY: frozenset[str] = frozenset()


def names(count: int) -> list[str]:
    return [f"n{number}" for number in range(count)]


class Ear:
    """A hearing, and what the fleet's reports look like to it."""

    def __init__(self) -> None:
        self.now = START
        self.detector = FailureDetector(START, LATE)

    def late_nodes(self, after: float, ages: dict[str, float]) -> dict[str, float]:
        self.now += after
        beats = [ExpectedNode(node_id, 0.0) for node_id in ages]
        return self.detector.late_nodes(beats, [NodeHeartbeat(age, 0) for age in ages.values()], self.now)

    def silent(self, after: float, ids: list[str]) -> dict[str, float]:
        return self.late_nodes(after, dict.fromkeys(ids, math.inf))


def test_a_node_is_late_when_its_last_report_is_too_old() -> None:
    ear = Ear()
    assert ear.late_nodes(20, {"a": 1.0, "b": 14.0}) == {}
    assert ear.late_nodes(1.5, {"a": 2.5, "b": 15.5}) == {"b": START + 6}
    assert ear.late_nodes(1, {"a": 3.5, "b": 0.5}) == {}


def test_a_report_that_is_gone_from_redis_was_heard_all_the_same() -> None:
    ear = Ear()
    ear.late_nodes(20, {"a": 0.0})
    assert ear.silent(14, ["a"]) == {}
    assert ear.silent(2, ["a"]) == {"a": START + 20}


def test_everybody_gets_the_full_time_after_a_start_and_after_redis_was_away() -> None:
    ear = Ear()
    assert ear.silent(14, ["a"]) == {}
    assert ear.silent(2, ["a"]) == {"a": START}
    ear.detector.forget_silence(ear.now)
    assert ear.silent(14, ["a"]) == {}
    assert ear.silent(2, ["a"]) == {"a": START + 16}


def test_a_node_that_registers_gets_the_full_time() -> None:
    ear = Ear()
    beat, sign = ExpectedNode("a", START + 100), NodeHeartbeat(math.inf, 0)
    assert ear.detector.late_nodes([beat], [sign], START + 114) == {}
    assert ear.detector.late_nodes([beat], [sign], START + 116) == {"a": START + 100}


def test_the_next_look_is_when_the_first_busy_node_would_be_late() -> None:
    ear = Ear()
    ear.late_nodes(20, {"a": 3.0, "b": 9.0, "idle": 14.0})
    assert ear.detector.next_late({"a", "b"}, ear.now) == 6.0
    assert ear.detector.next_late({"a"}, ear.now) == 12.0
    assert ear.detector.next_late(NOBODY, ear.now) == math.inf
    # One that is late already brings nobody back sooner.
    assert ear.detector.next_late({"b"}, ear.now + 7) == math.inf


def test_the_brake_holds_what_most_of_the_fleet_had_when_it_vanished() -> None:
    ear, ids = Ear(), names(10)
    ear.late_nodes(20, dict.fromkeys(ids, 0.0))
    late = ear.late_nodes(16, {**dict.fromkeys(ids[:6], math.inf), **dict.fromkeys(ids[6:], 0.0)})
    assert set(late) == set(ids[:6])
    assert ear.detector.braked(late, set(ids[:5]), ear.now) == set(ids[:5])
    # With less work at stake, or half of the fleet still there, it is the nodes' own trouble.
    assert ear.detector.braked(late, set(ids[: BRAKE_MIN_NODES - 1]), ear.now) == NOBODY
    half = {node_id: late[node_id] for node_id in ids[:5]}
    assert ear.detector.braked(half, set(ids[:5]), ear.now) == NOBODY


def test_the_brake_ends_for_nodes_that_are_silent_for_long() -> None:
    ear, ids = Ear(), names(10)
    ear.late_nodes(20, dict.fromkeys(ids, 0.0))
    late = ear.silent(BRAKE_PERIODS * LATE, ids)
    assert ear.detector.braked(late, set(ids), ear.now) == set(ids)
    late = ear.silent(1, ids)
    assert ear.detector.braked(late, set(ids), ear.now) == NOBODY


def test_nodes_that_nobody_has_seen_for_long_do_not_hold_the_brake() -> None:
    ear, dead, alive = Ear(), [f"dead{number}" for number in range(100)], names(20)
    for _ in range(5):
        late = ear.late_nodes(20, {**dict.fromkeys(dead, math.inf), **dict.fromkeys(alive, 0.0)})
    assert set(late) == set(dead)
    late = ear.late_nodes(16, {**dict.fromkeys(dead + alive[:6], math.inf), **dict.fromkeys(alive[6:], 0.0)})
    assert ear.detector.braked(late, set(alive[:6]), ear.now) == NOBODY
    # While the ones that were there are most of what counts.
    late = ear.silent(16, dead + alive)
    assert ear.detector.braked(late, set(alive), ear.now) == set(alive)
