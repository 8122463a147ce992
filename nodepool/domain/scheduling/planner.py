"""Brings those who wait and the fleet together: one decision after another, each seen by the next.

Pure. What is planned is taken on this picture of the fleet at once. The reservation in Redis has the last
word: what it refuses goes back into the wait queue, and its node's row is set to what Redis says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nodepool.domain.scheduling.fleet import Fleet
from nodepool.domain.scheduling.placement import Chooser, Decision, Requirements, decide
from nodepool.domain.scheduling.wait_queue import Ageing, WaitGroup, WaitingTask, WaitQueue

# More different requirements than this at once, and the least used choosers are made anew when needed.
_MAX_CHOOSERS = 512


@dataclass(frozen=True, slots=True)
class Planned:
    task: WaitingTask
    row: int
    node_id: str


class Planner:
    """The wait queue, the fleet and a chooser for each set of requirements. Not thread-safe."""

    def __init__(
        self,
        fleet: Fleet,
        ageing: Ageing,
        *,
        served: Callable[[int], float],
        charge: Callable[[WaitingTask], None],
        allows: Callable[[WaitingTask], bool] = lambda _: True,
        affords: Callable[[WaitingTask], bool] = lambda _: True,
    ) -> None:
        """`served` and `charge` are the account of who was served how much: see `fair_share`.

        `allows`: may its owner have one more running? While not, none of their tasks comes up; who asked to
        hold them lets them go (`WaitQueue.let_go`). `affords`: can it hold what it must when it is placed?
        While not, none of its owner's that hold as much comes up (`WaitQueue.money_came`).
        """
        self.fleet = fleet
        self.queue = WaitQueue(ageing, served)
        self._charge = charge
        self._allows, self._affords = allows, affords
        self._choosers: dict[Requirements, Chooser] = {}

    def plan(self, now: float, limit: int) -> list[Planned]:
        """At most `limit` decisions, best first; their room is taken and their tasks left the wait queue."""
        planned: list[Planned] = []
        while len(planned) < limit and (head := self.queue.head(now)) is not None:
            task, group = head
            if not self._allows(task):
                self.queue.hold(task.owner_id)
                continue
            if not self._affords(task):
                self.queue.wait_for_money(task, now)
                continue
            chooser = self._chooser(group)
            row = chooser.next()
            if row is None:
                self.queue.block(group)
                continue
            self.fleet.take(row, chooser.amounts)
            self._charge(task)
            self.queue.take(task, now)
            planned.append(Planned(task, row, self.fleet.ids[row]))
        return planned

    def more_room(self, row: int, now: float) -> None:
        """Something ended on the node of this row, or it takes work again."""
        for group in self.queue.groups():
            if group.blocked:
                self._chooser(group)  # so that it is among those asked below
        for requirements, chooser in self._choosers.items():
            if chooser.offer(row) and (waiting := self.queue.group_of(requirements)) is not None:
                self.queue.unblock(waiting, now)

    def facts_changed(self, now: float) -> None:
        """Nodes came, went or changed: what was worked out of their facts is of no use any more."""
        self._choosers.clear()
        self.queue.unblock_all(now)

    def decide(self, group: WaitGroup) -> Decision:
        """Why the group finds no node now."""
        return decide(group.requirements, self.fleet)

    def _chooser(self, group: WaitGroup) -> Chooser:
        chooser = self._choosers.get(group.requirements)
        if chooser is None:
            if len(self._choosers) >= _MAX_CHOOSERS:
                self._choosers.clear()
            chooser = self._choosers[group.requirements] = Chooser(group.requirements, self.fleet)
        return chooser
