"""What comes next for a task with several runs: wait, add runs, or end with what they say. Pure.

How votes are counted is in `domain/trust/voting.py`. Here is what a pool adds to it: runs that wait for a
node of another owner, that take long, or that never come to a vote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from nodepool.domain.tasks.states import FINAL_TASK_STATES, TaskState
from nodepool.domain.trust.voting import MAX_REPLICAS, Count, Verdict, Vote, count_votes

__all__ = ["MAX_REPLICAS", "Next", "ReplicaRun", "Step", "next_step"]

# How long a majority waits for runs without a node. One that runs gets as long again as the slowest had.
PATIENCE_SECONDS = 60.0
_AS_LONG_AGAIN = 2.0
# How long runs that differ wait for an owner who could decide.
TIE_PATIENCE_SECONDS = 600.0
# And how long a run that nobody asked for waits for any: its node waits for its pay meanwhile.
CHECK_PATIENCE_SECONDS = 86400.0
# Runs that ended without a vote are replaced; not for ever.
_MOST_WITHOUT_A_VOTE = 5


class Step(StrEnum):
    WAIT = "wait"
    ADD = "add"
    END = "end"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaRun:
    """`vote` when it has ended by itself; `ended_at` and `seconds` of that."""

    state: TaskState
    vote: Vote | None = None
    ended_at: float = 0.0
    seconds: float = 0.0
    given_up: bool = False  # every allowed attempt was lost

    @property
    def is_open(self) -> bool:
        return self.state not in FINAL_TASK_STATES


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    step: Step
    add: int = 0
    count: Count | None = None  # when it ends


def next_step(
    runs: Sequence[ReplicaRun], *, replicas: int, now: float, others: bool, by_user: bool = True
) -> Next:
    """`others`: an owner without a run has a node. `asked`: by a user, who rather waits than goes without.

    `runs` in any order; an audited task's own run is one of them.
    """
    voted = sorted((run for run in runs if run.vote is not None), key=lambda run: run.ended_at)
    votes = [run.vote for run in voted if run.vote is not None]
    still_open = [run for run in runs if run.is_open]
    count = count_votes(votes, replicas=replicas)
    if count.verdict is not Verdict.MORE:
        return Next(step=Step.END, count=count)
    if still_open and (early := _early(voted, votes, still_open, replicas, now, by_user=by_user)):
        return Next(step=Step.END, count=early)
    missing = count.wanted - len(still_open)
    if missing <= 0:
        return Next(step=Step.WAIT)
    wordless = sum(not run.is_open and run.vote is None for run in runs)
    hopeless = any(run.given_up for run in runs) or wordless >= _MOST_WITHOUT_A_VOTE
    nobody = not others and (len(votes) >= replicas or not by_user)
    if not hopeless and not nobody:
        return Next(step=Step.ADD, add=missing)
    if still_open:
        return Next(step=Step.WAIT)
    return Next(step=Step.END, count=count_votes(votes, replicas=replicas, no_more=True))


def _early(
    voted: Sequence[ReplicaRun],
    votes: Sequence[Vote],
    still_open: Sequence[ReplicaRun],
    replicas: int,
    now: float,
    *,
    by_user: bool,
) -> Count | None:
    """The count, when what is open is not waited for any longer."""
    if not voted:
        return None
    waited = now - voted[-1].ended_at
    runs_now = any(run.state is not TaskState.QUEUED for run in still_open)
    count = count_votes(votes, replicas=replicas, no_more=True)
    if count.verdict is Verdict.AGREED:
        support = sum(vote.digest == count.digest for vote in votes)
        slowest = max(run.seconds for run in voted)
        patience = max(PATIENCE_SECONDS, _AS_LONG_AGAIN * slowest if runs_now else 0.0)
        return count if 2 * support > replicas and waited >= patience else None
    if runs_now or waited < (TIE_PATIENCE_SECONDS if by_user else CHECK_PATIENCE_SECONDS):
        return None
    # Whoever asked for so many votes waits for them; beyond that nobody waits for ever.
    return count if len(votes) >= replicas or not by_user else None
