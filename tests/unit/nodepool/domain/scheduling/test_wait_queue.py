"""Who is next, as pure values: tiers with ageing, fair share, priority, age, and patience for a region."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from hypothesis import given, strategies as st

from nodepool.domain.resources import Claim
from nodepool.domain.scheduling.placement import Wish
from nodepool.domain.scheduling.wait_queue import Ageing, WaitingTask, WaitQueue
from nodepool.domain.tasks.states import LocationMode
from nodepool.domain.trust.tiers import Tier

AGEING = Ageing(tier_seconds=600, priority_seconds=60, region_patience_seconds=30)
WISH = Wish(claim=Claim(100, 512, 0, 0), tier=Tier.NORMAL)


class Line:
    """A line with an account of who was served; taking a task counts one for its owner."""

    def __init__(self) -> None:
        self.served: Counter[int] = Counter()
        self.line = WaitQueue(AGEING, lambda owner: self.served[owner])

    def add(self, task_id: str, owner: int = 1, now: float = 0.0, **fields: Any) -> WaitingTask:
        wish = fields.pop("wish", WISH)
        values = {"priority": 5, "created_at": now, "queued_at": now, **fields}
        task = WaitingTask(task_id=task_id, owner_id=owner, wish=wish, **values)
        self.line.add(task, now)
        return task

    def next(self, now: float) -> str | None:
        head = self.line.head(now)
        if head is None:
            return None
        self.served[head[0].owner_id] += 1
        self.line.take(head[0], now)
        return head[0].task_id

    def all(self, now: float) -> list[str]:
        ids = []
        while (task_id := self.next(now)) is not None:
            ids.append(task_id)
        return ids


def tier(word: Tier) -> Wish:
    return replace(WISH, tier=word)


def test_high_goes_before_normal_before_low() -> None:
    line = Line()
    for word in (Tier.LOW, Tier.NORMAL, Tier.HIGH):
        line.add(word, wish=tier(word))
    assert line.all(1) == ["high", "normal", "low"]


def test_a_low_task_is_never_more_than_the_stated_time_behind() -> None:
    line = Line()
    line.add("old", owner=1, wish=tier(Tier.LOW))
    for number in range(3):
        line.add(f"new{number}", owner=2, now=1199, wish=tier(Tier.HIGH))
    assert line.next(1199) == "new0"
    # Two tiers lower, and so twice the time; the clock is looked at every ten seconds.
    assert line.next(1211) == "old"


def test_of_one_users_tasks_the_higher_priority_goes_first_and_then_the_older() -> None:
    line = Line()
    for task_id, priority, at in (("low", 1, 0.0), ("second", 9, 2.0), ("first", 9, 1.0), ("middle", 5, 0.5)):
        line.add(task_id, priority=priority, now=at)
    assert line.all(3) == ["first", "second", "middle", "low"]


def test_waiting_counts_as_priority() -> None:
    line = Line()
    line.add("old", priority=0, now=0)
    line.add("new", priority=9, now=9 * 60 + 1)
    assert line.all(9 * 60 + 2) == ["old", "new"]


def test_one_users_thousand_tasks_do_not_hold_up_anothers_one() -> None:
    line = Line()
    for number in range(1000):
        line.add(f"a{number}", owner=1, priority=9, now=number / 1000)
    for _ in range(10):
        line.next(2)
    line.add("b", owner=2, priority=0, now=2)
    assert line.next(2) == "b"


def test_users_about_equally_served_are_ordered_by_priority() -> None:
    line = Line()
    line.add("a", owner=1, priority=3)
    line.add("b", owner=2, priority=7, now=1)
    assert line.next(1) == "b"


def test_two_users_with_much_to_do_take_turns() -> None:
    line = Line()
    for number in range(10):
        line.add(f"a{number}", owner=1, now=0)
        line.add(f"b{number}", owner=2, now=1)
    owners = [task_id[0] for task_id in line.all(1)]
    assert all(abs(owners[:count].count("a") - owners[:count].count("b")) <= 1 for count in range(20))


def test_a_group_that_is_blocked_is_left_alone_until_it_is_not() -> None:
    line = Line()
    line.add("wants much", priority=9, wish=replace(WISH, claim=Claim(9999, 0, 0, 0)))
    line.add("wants much too", priority=9, wish=replace(WISH, claim=Claim(9999, 0, 0, 0)))
    line.add("wants little", priority=0)
    head = line.line.head(1)
    assert head is not None
    line.line.block(head[1])
    assert line.all(1) == ["wants little"]
    line.line.unblock(head[1], 1)
    assert line.all(1) == ["wants much", "wants much too"]


def test_who_comes_to_a_blocked_group_waits_with_it() -> None:
    line = Line()
    line.add("one")
    head = line.line.head(0)
    assert head is not None
    line.line.block(head[1])
    line.add("two")
    assert line.all(0) == []
    line.line.unblock_all(0)
    assert line.all(0) == ["one", "two"]


def test_who_left_the_line_is_passed_over_and_may_come_back() -> None:
    line = Line()
    line.add("one", priority=9)
    line.add("two")
    line.line.discard("one")
    assert line.next(0) == "two"
    line.add("one", priority=1)
    assert line.all(0) == ["one"]
    assert len(line.line) == 0
    assert line.line.groups() == []


def test_a_task_that_comes_again_is_there_once_as_it_is_now() -> None:
    line = Line()
    line.add("one", priority=9)
    line.add("one", priority=0)
    line.add("two", priority=5)
    assert line.all(0) == ["two", "one"]


def test_a_task_that_only_prefers_its_region_takes_another_when_its_patience_is_over() -> None:
    line = Line()
    wish = replace(WISH, region="asia")
    line.add("patient", wish=wish, location_mode=LocationMode.PREFER)
    line.add("strict", wish=wish, priority=0)
    head = line.line.head(29)
    assert head is not None
    assert (head[0].task_id, head[0].wish.relaxed) == ("patient", False)
    line.line.block(head[1])
    assert line.line.head(29.5) is None
    head = line.line.head(30)
    assert head is not None
    assert (head[0].task_id, head[0].wish.relaxed) == ("patient", True)
    assert line.next(30) == "patient"
    assert line.next(30) is None


TASKS = st.lists(
    st.tuples(
        st.integers(1, 3), st.sampled_from(Tier), st.integers(0, 9), st.integers(0, 2000), st.integers(0, 2)
    ),
    max_size=30,
)


@given(TASKS, st.randoms(use_true_random=False))
def test_everybody_comes_once_whatever_is_blocked_added_and_discarded(tasks: Any, random: Any) -> None:
    line = Line()
    waiting: set[str] = set()
    seen: list[str] = []
    now = 0.0
    for number, (owner, word, priority, at, size) in enumerate(tasks):
        now = max(now, float(at))
        wish = replace(WISH, tier=word, claim=Claim(size, 0, 0, 0))
        line.add(f"t{number}", owner, now, priority=priority, wish=wish)
        waiting.add(f"t{number}")
        match random.randrange(4):
            case 0 if (head := line.line.head(now)) is not None:
                line.line.block(head[1])
            case 1 if (taken := line.next(now)) is not None:
                seen.append(taken)
                waiting.remove(taken)
            case 2:
                gone = random.choice(sorted(waiting))
                line.line.discard(gone)
                waiting.remove(gone)
    line.line.unblock_all(now)
    rest = line.all(now)
    assert set(rest) == waiting
    assert len(rest) == len(waiting)
    assert not set(seen) & waiting
    assert line.line.groups() == []


def test_a_user_who_is_held_is_passed_over_until_he_is_let_go() -> None:
    line = Line()
    line.add("a1", owner=1)
    line.add("b1", owner=2, now=5)
    line.line.hold(1)
    line.add("a2", owner=1, now=6)
    assert line.all(10) == ["b1"]
    # Time alone lets nobody go, and neither does more room.
    line.line.unblock_all(1000)
    assert line.all(1000) == []
    line.line.let_go(1, 1000)
    assert line.all(1000) == ["a1", "a2"]


def test_a_user_who_was_held_and_left_the_line_may_come_back() -> None:
    line = Line()
    line.add("a1", owner=1)
    line.line.hold(1)
    line.line.discard("a1")
    line.add("a2", owner=1)
    assert line.all(0) == []
    line.line.let_go(1, 0)
    assert line.all(0) == ["a2"]
