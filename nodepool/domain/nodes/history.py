"""How a node did: decayed sums of its attempts, and what ranking and probation make of them.

Pure: the time is passed in. The sums are kept with the node in SQL and change in the transaction that
ends an attempt.

What counts. SUCCEEDED and FAILED are good, because the node ran the task to its end. LOST and REFUSED are
bad. STOPPED is neither. An end that the pool caused itself (an eviction) is blameless and counts nowhere.
Nor does an attempt that was pinned to the node: its owner could order as many good ends as they like. What a
node cannot give to one task, such as an image, says nothing of it either.

A task that was lost before is itself under suspicion, so the blame is shared: a bad end counts
1 / (1 + bad ends that the task had before).

Work that a draining node hands back, or that a node had which its owner signed off, is no crash, and
never leads to probation. It is not free either, or a node could wash off what it drops by draining for a
moment: it counts as HANDED_BACK_WEIGHT of a bad end. A node that is lost while it drains is just lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from nodepool.domain.tasks.states import Outcome

# The prior of the success rate, Beta(4, 1): a node that nobody knows counts as if 4 of 5 attempts had
# ended well. That is below a node which proved itself and above one which just lost something, and one
# end alone moves nobody to 0 or 1. As the sums decay, a node that gets no work drifts back to it.
PRIOR_GOOD, PRIOR_BAD = 4.0, 1.0
# The prior of the speed: so many comparisons that found the node as fast as it promised.
PRIOR_SPEED_WEIGHT = 3.0
HANDED_BACK_WEIGHT = 0.1
# No single comparison says more than this, or its inverse.
MOST_SPEED_OF_ONE_RUN = 2.0
# More speed than this earns nothing in ranking: the score was understated, or the runs are not alike.
MOST_SPEED_THAT_COUNTS = 1.25
# Of shorter runs the transfer of package and result is too large a part.
LEAST_COMPARED_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRules:
    """The operator's choices: HISTORY_HALF_LIFE_SECONDS and PROBATION_AFTER."""

    half_life_seconds: float = 7 * 86400.0
    probation_after: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHistory:
    """Sums as of `at`. Nobody's history is History()."""

    good: float = 0.0
    bad: float = 0.0
    speed_sum: float = 0.0
    speed_weight: float = 0.0
    at: float = 0.0
    bad_streak: int = 0

    def as_of(self, now: float, rules: HistoryRules) -> NodeHistory:
        """The sums decayed to `now`. Time only goes forward: an earlier `now` changes nothing."""
        if now <= self.at:
            return self
        left = 0.5 ** ((now - self.at) / rules.half_life_seconds)
        return NodeHistory(
            good=self.good * left,
            bad=self.bad * left,
            speed_sum=self.speed_sum * left,
            speed_weight=self.speed_weight * left,
            at=now,
            bad_streak=self.bad_streak,
        )

    @property
    def weight(self) -> float:
        """How many attempts it rests on."""
        return self.good + self.bad

    @property
    def success_rate(self) -> float:
        return (self.good + PRIOR_GOOD) / (self.weight + PRIOR_GOOD + PRIOR_BAD)

    @property
    def relative_speed(self) -> float:
        """Beside what cpu_score promises; 1 as promised, and where nothing could be compared."""
        return (self.speed_sum + PRIOR_SPEED_WEIGHT) / (self.speed_weight + PRIOR_SPEED_WEIGHT)

    @property
    def quality(self) -> float:
        """0-1, for ranking: the work that may be expected of a promised point of cpu_score.

        Success rate x speed. Rounded, so that the facts in Redis do not change with every attempt.
        """
        speed = min(self.relative_speed, MOST_SPEED_THAT_COUNTS) / MOST_SPEED_THAT_COUNTS
        return round(self.success_rate * speed, 2)

    def on_probation(self, rules: HistoryRules) -> bool:
        """One task at a time, until one succeeds."""
        return self.bad_streak >= rules.probation_after


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """How an attempt on the node ended, and what there is to say for or against the node."""

    outcome: Outcome
    counts: bool = True  # False: it was pinned to the node, or the pool ended it
    handed_back: bool = False
    bad_before: int = 0  # attempts of the same task that were lost before
    speed: float | None = None


def after_end(history: NodeHistory, ending: AttemptRecord, now: float, rules: HistoryRules) -> NodeHistory:
    """The history with one more end in it."""
    if not ending.counts or ending.outcome is Outcome.STOPPED:
        return history
    history = history.as_of(now, rules)
    if ending.outcome in {Outcome.LOST, Outcome.REFUSED}:
        if ending.handed_back:
            return replace(history, bad=history.bad + HANDED_BACK_WEIGHT)
        blame = 1 / (1 + ending.bad_before)
        return replace(history, bad=history.bad + blame, bad_streak=history.bad_streak + 1)
    # A task that failed by itself breaks the row of bad ends. It does not end a probation: a node whose
    # runtime is broken makes every task fail.
    ends_streak = ending.outcome is Outcome.SUCCEEDED or not history.on_probation(rules)
    history = replace(history, good=history.good + 1, bad_streak=0 if ends_streak else history.bad_streak)
    if ending.speed is None:
        return history
    return replace(history, speed_sum=history.speed_sum + ending.speed, speed_weight=history.speed_weight + 1)


def is_handed_back(outcome: Outcome, *, draining: bool, active: bool) -> bool:
    """Was it given back by a node that leaves in good order? The pool's own records say so, not the node."""
    if not active:
        return outcome in {Outcome.LOST, Outcome.REFUSED}
    return draining and outcome is Outcome.REFUSED


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRun:
    """A run that succeeded, by the pool's clock, with what its node promised."""

    seconds: float  # from claim to end
    claimed_score: int
    node_score: int
    node_cores: int

    @property
    def work(self) -> float:
        """Promised points x seconds. A run gets the points it claimed; one that claimed none, one core."""
        per_core = self.node_score / max(1, self.node_cores)
        return self.seconds * (min(self.claimed_score, self.node_score) or per_core)


def speed_of(here: MeasuredRun, elsewhere: Sequence[MeasuredRun]) -> float | None:
    """A node's speed beside its cpu_score, by one run of a package that other nodes ran too.

        speed = median(work elsewhere) / work here,   work = seconds x points of cpu_score given

    The pool promises a task points and not a machine, and every node gives a run as much of its cores as
    the points are worth there. So the same package should take the same work everywhere; a node on which
    it takes twice the work has half the speed that its score promises. Three choices in it:

    - Seconds are the pool's own, from claim to end. CPU seconds are the node's word, and the node that
      wishes to look fast would say few. They also do not see what its users wait for: a busy disk, a slow
      line, cores that are given away twice.
    - Only tasks of one owner with the same package are compared, so nobody else can add runs to the scale.
    - The median, because one node that is stuck or lies must not move it, and a bound on what one run says.

    None where there is nothing to compare: such runs count neither way.
    """
    comparable = [run.work for run in elsewhere if run.seconds >= LEAST_COMPARED_SECONDS and run.work > 0]
    if here.seconds < LEAST_COMPARED_SECONDS or here.work <= 0 or not comparable:
        return None
    speed = median(comparable) / here.work
    return min(MOST_SPEED_OF_ONE_RUN, max(1 / MOST_SPEED_OF_ONE_RUN, speed))


def believable(amount: float, most: float) -> float:
    """What a node says it used, within what it could have used: 0 for nonsense, never more than `most`."""
    if not math.isfinite(amount):
        return 0.0 if math.isnan(amount) or amount < 0 else most
    return min(max(0.0, amount), most)
