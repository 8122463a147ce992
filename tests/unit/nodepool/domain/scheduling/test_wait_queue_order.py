"""The line's heaps against its rules: whoever is at the head is the first of all who wait, looked at anew."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings, strategies as st

from nodepool.domain.resources import Claim
from nodepool.domain.scheduling.placement import Requirements
from nodepool.domain.scheduling.wait_queue import Ageing, WaitGroup, WaitingTask, WaitQueue
from nodepool.domain.trust.tiers import RANK, Tier

# Tiers do not age here: the queue looks at the clock every ten seconds only, the rules at once.
AGEING = Ageing(tier_seconds=1e9, priority_seconds=10, region_patience_seconds=30)
ACTS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "add", "take", "take", "block", "unblock", "discard"]),
        st.integers(1, 3),
        st.sampled_from(Tier),
        st.integers(0, 9),
        st.integers(0, 2),
    ),
    max_size=60,
)


class Model:
    def __init__(self) -> None:
        self.served: Counter[int] = Counter()
        self.queue = WaitQueue(AGEING, lambda owner: self.served[owner] / 2)
        self.waiting: dict[str, WaitingTask] = {}
        self.blocked: list[WaitGroup] = []

    def first(self) -> str | None:
        keys = [
            (
                RANK[task.requirements.tier],
                self.served[task.owner_id] // 2,
                task.created_at - task.priority * AGEING.priority_seconds,
                task.owner_id,
                task.task_id,
            )
            for task in self.waiting.values()
            if (group := self.queue.group_of(task.requirements)) is not None and not group.blocked
        ]
        return min(keys)[-1] if keys else None

    def head(self, now: float) -> tuple[WaitingTask, WaitGroup] | None:
        head = self.queue.head(now)
        assert (head and head[0].task_id) == self.first()
        return head


@settings(max_examples=200)
@given(ACTS)
def test_the_head_is_the_first_by_the_rules_whatever_happened_before(acts: Any) -> None:
    model = Model()
    for number, (act, owner, tier, priority, size) in enumerate(acts):
        now = number / 8
        head = model.head(now)
        if act == "add":
            requirements = Requirements(claim=Claim(size, 0, 0, 0), tier=tier)
            task = WaitingTask(
                task_id=f"t{number:02}", owner_id=owner, requirements=requirements, priority=priority,
                created_at=now, queued_at=now,
            )  # fmt: skip
            model.queue.add(task, now)
            model.waiting[task.task_id] = task
        elif act == "take" and head is not None:
            model.served[head[0].owner_id] += 1
            model.queue.take(head[0], now)
            del model.waiting[head[0].task_id]
        elif act == "block" and head is not None:
            model.queue.block(head[1])
            model.blocked.append(head[1])
        elif act == "unblock" and model.blocked:
            model.queue.unblock(model.blocked.pop(size % len(model.blocked)), now)
        elif act == "discard" and model.waiting:
            gone = sorted(model.waiting)[priority % len(model.waiting)]
            model.queue.discard(gone)
            del model.waiting[gone]
    listed = {task.task_id for group in model.queue.groups() for task in model.queue.tasks_of(group)}
    assert listed == set(model.waiting)
    model.head(len(acts))
