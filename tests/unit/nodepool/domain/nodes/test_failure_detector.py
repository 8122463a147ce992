"""Who is late and whether that is believed: pure, with a clock in the test's hand."""

from __future__ import annotations

import math

import pytest

from nodepool.domain.nodes.failure_detector import (
    BRAKE_MIN_NODES,
    BRAKE_PERIODS,
    ExpectedNode,
    FailureDetector,
    is_written_again,
)

LATE = 15.0
STEP = 2.0
NOBODY: frozenset[str] = frozenset()


def names(count: int) -> list[str]:
    return [f"n{number}" for number in range(count)]


class Ear:
    """A detector that looks every two seconds, and a fleet whose reports grow old by a clock of its own."""

    def __init__(self, *node_ids: str, grace_seconds: float = 0.0) -> None:
        self.now = 1000.0
        self.jump = 0.0  # by which Redis's clock went on without ours
        self.written: dict[str, float | None] = dict.fromkeys(node_ids)
        self.noted = dict.fromkeys(node_ids, 0.0)
        self.detector = FailureDetector(self.now, LATE, grace_seconds=grace_seconds)

    def write(self, *node_ids: str) -> None:
        for node_id in node_ids or tuple(self.written):
            self.written[node_id] = self.now + self.jump

    def ages(self) -> list[float]:
        """As Redis tells them: what is older than a report lives, or from the future, is none."""
        ages = [math.inf if at is None else self.now + self.jump - at for at in self.written.values()]
        return [age if 0 <= age <= 60 else math.inf for age in ages]

    def look(self, after: float = 0.0) -> set[str]:
        self.now += after
        expected = [ExpectedNode(node_id, 0.0, self.noted[node_id]) for node_id in self.written]
        self.late = self.detector.late_nodes(expected, self.ages(), self.now)
        return set(self.late)

    def listen(self, seconds: float, *reporting: str) -> set[str]:
        """Looks for so long, while these nodes report; who is late in the end."""
        end = self.now + seconds
        late = self.look()
        while self.now < end:
            step = min(STEP, end - self.now)
            if reporting:
                self.now += step / 2
                self.write(*reporting)
                late = self.look(step / 2)
            else:
                late = self.look(step)
        return late


def test_a_node_is_late_when_it_was_not_heard_for_so_long() -> None:
    ear = Ear("a", "b")
    ear.listen(10, "a", "b")
    assert ear.listen(13.5, "a") == set()
    assert ear.listen(1, "a") == {"b"}
    ear.write("b")
    assert ear.look(1) == set()


def test_a_report_that_is_gone_from_redis_was_heard_all_the_same() -> None:
    ear = Ear("a")
    ear.listen(10, "a")
    ear.written["a"] = None
    assert ear.listen(13) == set()
    assert ear.listen(2) == {"a"}


@pytest.mark.parametrize("jump", [1200.0, -1200.0])
def test_a_clock_that_jumps_makes_nobody_late_and_nobody_young(jump: float) -> None:
    ear = Ear("a", "dead")
    ear.listen(10, "a", "dead")
    ear.jump += jump
    assert ear.listen(12, "a") == set()
    assert ear.listen(4, "a") == {"dead"}


def test_everybody_gets_twice_the_time_after_a_start_and_after_an_outage() -> None:
    ear = Ear("a")
    assert ear.listen(29) == set()
    assert ear.listen(2) == {"a"}
    ear.detector.forget_silence()
    assert ear.listen(29) == set()
    assert ear.listen(2) == {"a"}


def test_who_was_heard_since_the_outage_has_the_usual_time() -> None:
    ear = Ear("a")
    ear.listen(10, "a")
    ear.now += 60
    ear.detector.forget_silence()
    ear.listen(2, "a")
    assert ear.listen(13) == set()
    assert ear.listen(2) == {"a"}


def test_what_passed_between_two_looks_does_not_count_as_silence_beyond_a_third() -> None:
    ear = Ear("a")
    ear.listen(10, "a")
    # Twelve seconds in which this process did nothing: five of them count.
    assert ear.look(12) == set()
    assert ear.listen(8) == set()
    assert ear.listen(2) == {"a"}


def test_looks_that_are_always_slow_find_the_dead_all_the_same() -> None:
    ear = Ear("a", "b")
    ear.listen(10, "a", "b")
    late: list[set[str]] = []
    for _ in range(4):
        ear.now += 10
        ear.write("a")
        late.append(ear.look())
    assert late[0] == set()
    assert late[-1] == {"b"}


def test_a_node_that_a_gateway_heard_of_was_heard() -> None:
    ear = Ear("a")
    ear.listen(10, "a")
    ear.listen(12)
    ear.noted["a"] = 1.0
    ear.look()
    assert ear.listen(14) == set()
    assert ear.listen(2) == {"a"}


def test_a_node_that_registers_gets_the_full_time() -> None:
    ear = Ear("a")
    ear.listen(40, "a")
    ear.written["new"], ear.noted["new"] = None, 0.0
    assert ear.listen(14, "a") == set()
    assert ear.listen(2, "a") == {"new"}


def test_the_next_look_is_when_the_first_busy_node_would_be_late() -> None:
    ear = Ear("a", "b", "idle")
    ear.listen(10, "a", "b", "idle")
    ear.listen(1, "a", "b")
    ear.now += 4
    ear.write("a")
    ear.look()
    assert ear.detector.next_late({"a", "b"}) == pytest.approx(10.5, abs=0.6)
    assert ear.detector.next_late({"a"}) == pytest.approx(15.0, abs=0.6)
    assert ear.detector.next_late(NOBODY) == math.inf
    # One that is late already brings nobody back sooner.
    ear.listen(12)
    assert ear.detector.next_late({"b"}) == math.inf


@pytest.mark.parametrize(
    ("age", "before", "elapsed", "again"),
    [
        (1.0, 3.0, 2.0, True),  # written a second ago
        (5.0, 3.0, 2.0, False),  # the same one
        (4.95, 3.0, 2.0, False),  # and two looks that took their time
        (1.0, math.inf, 2.0, True),  # there was none
        (math.inf, 3.0, 2.0, False),
        (40.0, math.inf, 2.0, False),  # an old one that came back with its Redis
        (2.5, 3.0, 2.0, True),  # written while the last look went on
        (1205.0, 3.0, 2.0, False),  # the clock jumped
    ],
)
def test_a_report_is_another_one(*, age: float, before: float, elapsed: float, again: bool) -> None:
    assert is_written_again(age, before=before, elapsed_seconds=elapsed) is again


def test_the_brake_holds_what_most_of_the_fleet_had_when_it_vanished() -> None:
    ids = names(10)
    ear = Ear(*ids)
    ear.listen(10)
    ear.listen(4, *ids)
    assert ear.listen(17, *ids[6:]) == set(ids[:6])
    assert ear.detector.braked(ear.late, set(ids[:5])) == set(ids[:5])
    assert [ear.detector.is_doubted(node_id) for node_id in ids] == [True] * 5 + [False] * 5
    # Those whose work went elsewhere meanwhile count as before: it is one matter.
    assert ear.detector.braked(ear.late, {ids[0]}) == {ids[0]}
    ear.listen(2, *ids[3:])
    assert ear.detector.braked(ear.late, set(ids[:5])) == NOBODY
    assert [ear.detector.is_doubted(node_id) for node_id in ids[:6]] == [True] * 3 + [False] * 3


def test_with_less_work_at_stake_it_is_the_nodes_own_trouble() -> None:
    ids = names(10)
    ear = Ear(*ids)
    ear.listen(10, *ids)
    ear.listen(17, *ids[6:])
    assert ear.detector.braked(ear.late, set(ids[: BRAKE_MIN_NODES - 1])) == NOBODY


def test_half_of_the_fleet_is_the_nodes_own_trouble() -> None:
    ids = names(10)
    ear = Ear(*ids)
    ear.listen(10, *ids)
    assert ear.listen(17, *ids[5:]) == set(ids[:5])
    assert ear.detector.braked(ear.late, set(ids)) == NOBODY
    assert not ear.detector.is_doubted(ids[0])


def test_nodes_that_vanished_in_one_moment_are_one_matter_though_some_are_late_before_the_others() -> None:
    ids = names(10)
    ear = Ear(*ids)
    ear.listen(10, *ids)
    ear.listen(4, *ids[1:])  # the report of the first was due when all lost their line
    assert ear.listen(11.5, *ids[8:]) == {ids[0]}
    assert ear.detector.braked(ear.late, set(ids)) == {ids[0]}
    assert set(ear.detector.heard()) == set(ids[8:])


@pytest.mark.parametrize(("grace_seconds", "held_seconds"), [(0.0, BRAKE_PERIODS * LATE), (600.0, 600.0)])
def test_the_brake_ends_for_nodes_that_are_silent_for_long(grace_seconds: float, held_seconds: float) -> None:
    ids = names(10)
    ear = Ear(*ids, grace_seconds=grace_seconds)
    ear.listen(10, *ids)
    ear.listen(held_seconds - 3)
    assert ear.detector.braked(ear.late, set(ids)) == set(ids)
    ear.listen(4)
    assert ear.detector.braked(ear.late, set(ids)) == NOBODY


def test_nodes_that_nobody_has_seen_for_long_do_not_hold_the_brake() -> None:
    dead, alive = [f"dead{number}" for number in range(100)], names(20)
    ear = Ear(*dead, *alive)
    assert ear.listen(BRAKE_PERIODS * LATE + 40, *alive) == set(dead)
    ear.listen(17, *alive[6:])
    assert ear.detector.braked(ear.late, set(alive[:6])) == NOBODY
    # While the ones that were there are most of what counts.
    ear.listen(17)
    assert ear.detector.braked(ear.late, set(alive)) == set(alive)
