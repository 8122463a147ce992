"""BOINC's adaptive replication, as its wiki publishes it (AdaptiveReplication, Job-replication).

- CV of a host: valid results in a row. One more when a replicated job of it is validated, 0 when one is
  found invalid.
- At each sending: a host with CV < 10 is not trusted; another is, with probability 1 - 1/CV.
- A trusted host is given unreplicated jobs, whose results are accepted as they come. One that is not is
  given replicated jobs first: those that already wait for a second host. Where there is none, its job
  becomes a replicated one.
- A replicated job needs two equal results. While there are none it is sent to one more host.

One result per user and job is a choice of the project; it is on here. Credit is granted when a result is
accepted, and not taken back. A run that never comes back is sent to another host.
"""

from __future__ import annotations

from collections import Counter, deque

from benchmarks.cheating.nodes import Node, Owner
from benchmarks.cheating.stage import Policy, Run, Task

TRUSTED_AFTER = 10
QUORUM = 2
# The wiki's max_total_results: then the job has failed.
MOST_RESULTS = 10


class Boinc(Policy):
    name = "boinc"

    def looks_trusted(self, node: Node) -> bool:
        return node.valid >= TRUSTED_AFTER

    def _trusts(self, node: Node) -> bool:
        return node.valid >= TRUSTED_AFTER and self.chance.random() >= 1 / node.valid

    def forget(self, node: Node, stranger: Owner) -> None:
        node.owner, node.valid, node.lies_now = stranger, 0, False

    def assign(self, free: list[Node], fresh: deque[Task]) -> list[tuple[Task, Node]]:
        pairs = []
        for node in free:
            if not (fresh or self.wanted):
                break
            trusted = self._trusts(node)
            task = None if trusted and fresh else self._waiting_for(node)
            if task is None and fresh:
                task = self._sent_fresh(node, fresh.popleft(), replicated=not trusted)
            if task is not None:
                pairs.append((task, node))
        return pairs

    def _sent_fresh(self, node: Node, task: Task, *, replicated: bool) -> Task:
        task.bar(node.owner)
        task.awaited = 1
        task.disputed = replicated
        if replicated:
            self._ask(task, QUORUM - 1)
        return task

    def _waiting_for(self, node: Node) -> Task | None:
        """The job that has waited longest, of those that may go to this host."""
        for index, task in enumerate(self.wanted):
            if node.owner.number not in task.barred:
                del self.wanted[index]
                task.bar(node.owner)
                return task
        return None

    def _ask(self, task: Task, runs: int) -> None:
        task.awaited += runs
        self.wanted.extend([task] * runs)

    def agreed(self, node: Node, friend: Node) -> None:
        node.valid += 1
        friend.valid += 1

    def returned(self, task: Task, run: Run) -> None:
        task.runs.append(run)
        task.awaited -= 1
        if not task.disputed:
            self.pay(run)
            self.accept(task, run)
        elif not task.awaited:
            self._validate(task)

    def _validate(self, task: Task) -> None:
        digest, support = Counter(run.digest for run in task.runs).most_common(1)[0]
        if support < QUORUM:
            if len(task.runs) >= MOST_RESULTS:
                self.tally.undecided += 1
            else:
                self._ask(task, 1)
            return
        for run in task.runs:
            if run.digest == digest:
                run.node.valid += 1
                self.pay(run)
            else:
                run.node.valid = 0
                self.caught(run.node)
        self.accept(task, next(run for run in task.runs if run.digest == digest))
