"""Who is next, as pure values: tiers with ageing, fair share, priority, age, and patience for a region."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from hypothesis import given, strategies as st

from nodepool.domain.resources import Claim
from nodepool.domain.scheduling.placement import Requirements
from nodepool.domain.scheduling.wait_queue import Ageing, WaitingTask, WaitQueue
from nodepool.domain.tasks.states import LocationMode
from nodepool.domain.trust.tiers import Tier

AGEING = Ageing(tier_seconds=600, priority_seconds=60, region_patience_seconds=30)
REQUIREMENTS = Requirements(claim=Claim(100, 512, 0, 0), tier=Tier.NORMAL)


class Line:
    """A line with an account of who was served; taking a task counts one for its owner."""

    def __init__(self) -> None:
        self.served: Counter[int] = Counter()
        self.queue = WaitQueue(AGEING, lambda owner: self.served[owner])

    def add(self, task_id: str, owner: int = 1, now: float = 0.0, **fields: Any) -> WaitingTask:
        requirements = fields.pop("requirements", REQUIREMENTS)
        values = {"priority": 5, "created_at": now, "queued_at": now, **fields}
        task = WaitingTask(task_id=task_id, owner_id=owner, requirements=requirements, **values)
        self.queue.add(task, now)
        return task

    def next(self, now: float) -> str | None:
        head = self.queue.head(now)
        if head is None:
            return None
        self.served[head[0].owner_id] += 1
        self.queue.take(head[0], now)
        return head[0].task_id

    def all(self, now: float) -> list[str]:
        ids = []
        while (task_id := self.next(now)) is not None:
            ids.append(task_id)
        return ids


def tier(word: Tier) -> Requirements:
    return replace(REQUIREMENTS, tier=word)


def test_high_goes_before_normal_before_low() -> None:
    queue = Line()
    for word in (Tier.LOW, Tier.NORMAL, Tier.HIGH):
        queue.add(word, requirements=tier(word))
    assert queue.all(1) == ["high", "normal", "low"]


def test_a_low_task_is_never_more_than_the_stated_time_behind() -> None:
    queue = Line()
    queue.add("old", owner=1, requirements=tier(Tier.LOW))
    for number in range(3):
        queue.add(f"new{number}", owner=2, now=1199, requirements=tier(Tier.HIGH))
    assert queue.next(1199) == "new0"
    # Two tiers lower, and so twice the time; the clock is looked at every ten seconds.
    assert queue.next(1211) == "old"


def test_of_one_users_tasks_the_higher_priority_goes_first_and_then_the_older() -> None:
    queue = Line()
    for task_id, priority, at in (("low", 1, 0.0), ("second", 9, 2.0), ("first", 9, 1.0), ("middle", 5, 0.5)):
        queue.add(task_id, priority=priority, now=at)
    assert queue.all(3) == ["first", "second", "middle", "low"]


def test_waiting_counts_as_priority() -> None:
    queue = Line()
    queue.add("old", priority=0, now=0)
    queue.add("new", priority=9, now=9 * 60 + 1)
    assert queue.all(9 * 60 + 2) == ["old", "new"]


def test_one_users_thousand_tasks_do_not_hold_up_anothers_one() -> None:
    queue = Line()
    for number in range(1000):
        queue.add(f"a{number}", owner=1, priority=9, now=number / 1000)
    for _ in range(10):
        queue.next(2)
    queue.add("b", owner=2, priority=0, now=2)
    assert queue.next(2) == "b"


def test_users_about_equally_served_are_ordered_by_priority() -> None:
    queue = Line()
    queue.add("a", owner=1, priority=3)
    queue.add("b", owner=2, priority=7, now=1)
    assert queue.next(1) == "b"


def test_two_users_with_much_to_do_take_turns() -> None:
    queue = Line()
    for number in range(10):
        queue.add(f"a{number}", owner=1, now=0)
        queue.add(f"b{number}", owner=2, now=1)
    owners = [task_id[0] for task_id in queue.all(1)]
    assert all(abs(owners[:count].count("a") - owners[:count].count("b")) <= 1 for count in range(20))


def test_a_group_that_is_blocked_is_left_alone_until_it_is_not() -> None:
    queue = Line()
    queue.add("wants much", priority=9, requirements=replace(REQUIREMENTS, claim=Claim(9999, 0, 0, 0)))
    queue.add("wants much too", priority=9, requirements=replace(REQUIREMENTS, claim=Claim(9999, 0, 0, 0)))
    queue.add("wants little", priority=0)
    head = queue.queue.head(1)
    assert head is not None
    queue.queue.block(head[1])
    assert queue.all(1) == ["wants little"]
    queue.queue.unblock(head[1], 1)
    assert queue.all(1) == ["wants much", "wants much too"]


def test_who_comes_to_a_blocked_group_waits_with_it() -> None:
    queue = Line()
    queue.add("one")
    head = queue.queue.head(0)
    assert head is not None
    queue.queue.block(head[1])
    queue.add("two")
    assert queue.all(0) == []
    queue.queue.unblock_all(0)
    assert queue.all(0) == ["one", "two"]


def test_who_left_the_line_is_passed_over_and_may_come_back() -> None:
    queue = Line()
    queue.add("one", priority=9)
    queue.add("two")
    queue.queue.discard("one")
    assert queue.next(0) == "two"
    queue.add("one", priority=1)
    assert queue.all(0) == ["one"]
    assert len(queue.queue) == 0
    assert queue.queue.groups() == []


def test_a_task_that_comes_again_is_there_once_as_it_is_now() -> None:
    queue = Line()
    queue.add("one", priority=9)
    queue.add("one", priority=0)
    queue.add("two", priority=5)
    assert queue.all(0) == ["two", "one"]


def test_a_task_that_only_prefers_its_region_takes_another_when_its_patience_is_over() -> None:
    queue = Line()
    requirements = replace(REQUIREMENTS, region="asia")
    queue.add("patient", requirements=requirements, location_mode=LocationMode.PREFER)
    queue.add("strict", requirements=requirements, priority=0)
    head = queue.queue.head(29)
    assert head is not None
    assert (head[0].task_id, head[0].requirements.relaxed) == ("patient", False)
    queue.queue.block(head[1])
    assert queue.queue.head(29.5) is None
    head = queue.queue.head(30)
    assert head is not None
    assert (head[0].task_id, head[0].requirements.relaxed) == ("patient", True)
    assert queue.next(30) == "patient"
    assert queue.next(30) is None


TASKS = st.lists(
    st.tuples(
        st.integers(1, 3), st.sampled_from(Tier), st.integers(0, 9), st.integers(0, 2000), st.integers(0, 2)
    ),
    max_size=30,
)


@given(TASKS, st.randoms(use_true_random=False))
def test_everybody_comes_once_whatever_is_blocked_added_and_discarded(tasks: Any, random: Any) -> None:
    queue = Line()
    waiting: set[str] = set()
    seen: list[str] = []
    now = 0.0
    for number, (owner, word, priority, at, size) in enumerate(tasks):
        now = max(now, float(at))
        requirements = replace(REQUIREMENTS, tier=word, claim=Claim(size, 0, 0, 0))
        queue.add(f"t{number}", owner, now, priority=priority, requirements=requirements)
        waiting.add(f"t{number}")
        match random.randrange(4):
            case 0 if (head := queue.queue.head(now)) is not None:
                queue.queue.block(head[1])
            case 1 if (taken := queue.next(now)) is not None:
                seen.append(taken)
                waiting.remove(taken)
            case 2:
                gone = random.choice(sorted(waiting))
                queue.queue.discard(gone)
                waiting.remove(gone)
    queue.queue.unblock_all(now)
    rest = queue.all(now)
    assert set(rest) == waiting
    assert len(rest) == len(waiting)
    assert not set(seen) & waiting
    assert queue.queue.groups() == []


def test_a_user_who_is_held_is_passed_over_until_he_is_let_go() -> None:
    queue = Line()
    queue.add("a1", owner=1)
    queue.add("b1", owner=2, now=5)
    queue.queue.hold(1)
    queue.add("a2", owner=1, now=6)
    assert queue.all(10) == ["b1"]
    # Time alone lets nobody go, and neither does more room.
    queue.queue.unblock_all(1000)
    assert queue.all(1000) == []
    queue.queue.let_go(1, 1000)
    assert queue.all(1000) == ["a1", "a2"]


def test_a_user_who_was_held_and_left_the_line_may_come_back() -> None:
    queue = Line()
    queue.add("a1", owner=1)
    queue.queue.hold(1)
    queue.queue.discard("a1")
    queue.add("a2", owner=1)
    assert queue.all(0) == []
    queue.queue.let_go(1, 0)
    assert queue.all(0) == ["a2"]


def test_tasks_are_sorted_by_size_anew_when_other_sizes_count() -> None:
    line = Line()
    for task_id, size in (("small", 1), ("large", 10)):
        line.add(task_id, package_bytes=size)
    assert len(line.queue.groups()) == 1
    line.queue.sort_by_size(lambda size: 5 if size > 5 else 0, 1.0)
    found = {task_id: line.queue.find(task_id) for task_id in ("small", "large")}
    assert {task_id: task and task.requirements.over_bytes for task_id, task in found.items()} == {
        "small": 0,
        "large": 5,
    }
    line.queue.sort_by_size(lambda _: 0, 2.0)
    assert len(line.queue.groups()) == 1
    assert line.all(3.0) == ["large", "small"]
