"""What stands for a row of the pool's tables in the simulation, and the names that things have there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from benchmarks.cheating.nodes import IDLED, ROUND_SECONDS, Node, Owner
from benchmarks.cheating.stage import Run, Task
from nodepool.domain.ends.attempt_end import End
from nodepool.domain.ends.task_runs import TaskRun
from nodepool.domain.money import ledger
from nodepool.domain.resources import Claim
from nodepool.domain.tasks.reasons import NO_REASON
from nodepool.domain.tasks.states import Outcome

# Whoever submits all of it has no node. Owners of nodes have the next numbers.
USER = 1
USER_ACCOUNT = ledger.user_account(USER)
FIRST_OWNER = 2
# All runs take one round.
MINUTES = int(ROUND_SECONDS // 60)
NO_ROOM = Claim(0, 0, 0, 0, tasks=0)


@dataclass(slots=True)
class PoolTask:
    """A task whose result does not stand yet: the row of it, and those of its runs."""

    task: Task
    run: Run
    digest: str
    runs: tuple[TaskRun, ...] = ()
    returned: dict[str, Run] = field(default_factory=dict)  # attempt -> what its node returned
    waits_since: float | None = None  # of the run that is to check it
    held_until: float = 0.0
    paid: Counter[str] = field(default_factory=Counter)  # attempt -> CPT


def end_of(run: Run) -> End:
    if run.digest == IDLED:
        return End(outcome=Outcome.FAILED, exit_code=None, reason=NO_REASON, late=True, idle=True)
    return End(
        outcome=Outcome.SUCCEEDED,
        exit_code=0,
        reason=NO_REASON,
        result_bytes=1,
        has_result=True,
        output_bytes=1,
        digest=str(run.digest),
    )


def awards(attempt_id: str) -> set[str]:
    """A run may be paid from two accounts."""
    return {ledger.award_id(attempt_id, source) for source in (ledger.PENDING, ledger.FEE, ledger.MINT)}


def task_id_of(task: Task) -> str:
    return f"t{task.number}"


def node_id_of(node: Node) -> str:
    """Of its present owner: another account registers another node."""
    return f"n{node.number}.{node.owner.number}"


def owner_id_of(owner: Owner) -> int:
    return FIRST_OWNER + owner.number
