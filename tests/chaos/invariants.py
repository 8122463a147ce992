"""What must be true of a pool whatever breaks: pure functions from a history to the words of violations."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise

from tests.chaos.history import BOUND_SECONDS, Call, History, Sample, disturbed, due, window_end

# A run whose attempt has ended elsewhere is ended when its node hears of it: a report, a question, a kill.
OUTLIVES_SECONDS = 15.0
DRAIN_RATIO = 0.5
# Shorter windows say nothing about a pace.
DRAIN_LEAST_SECONDS = 6.0
# What a user may be told while something is broken: the client's names for proper statuses.
PROPER_ERRORS = frozenset({"unreachable", "timed_out", "limit"})
FINAL = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
LIVE = frozenset({"assigned", "running"})

Violations = Iterator[str]
Rule = Callable[[History], Violations]


def nothing_is_lost(history: History) -> Violations:
    """Every accepted task ended, and well: nothing in the workload fails by itself."""
    for task in history.tasks:
        if task.state not in FINAL:
            yield f"{task.task_id} was accepted and has not ended: {task.state or 'unknown to the pool'}"
        elif task.state != "SUCCEEDED":
            yield f"{task.task_id} ended {task.state}, and nothing was wrong with it"
        elif not task.result_token:
            yield f"{task.task_id} ended well and has no result"


def nothing_is_doubled(history: History) -> Violations:
    """One attempt's output, result and end for each task, and one run for each attempt."""
    for task in history.tasks:
        if len(set(task.ends)) > 1:
            yield f"{task.task_id} ended more than once: {', '.join(task.ends)}"
        if task.result_token and len(task.output_token.split()) != 1:
            yield f"{task.task_id} has the output of {len(task.output_token.split())} runs"
        elif task.result_token and task.output_token != task.result_token:
            yield f"{task.task_id}: output is of run {task.output_token}, the result of {task.result_token}"
    finished = Counter(it.task_id for it in history.attempts if it.state == "finished")
    for task_id, count in finished.items():
        if count > 1:
            yield f"{task_id} has {count} attempts that finished"
    for attempt_id, count in Counter(run.attempt_id for run in history.runs).items():
        if count > 1:
            yield f"attempt {attempt_id} was run {count} times"


def nothing_is_paid_twice(history: History) -> Violations:
    yield from history.ledger_problems
    for task in history.tasks:
        if task.payments > 1:
            yield f"{task.task_id} was paid {task.payments} times"
        if task.state in FINAL and task.holds_open:
            yield f"{task.task_id} has ended and still holds CPT"


def never_over_capacity(history: History) -> Violations:
    """By the processes on the nodes themselves."""
    worst: dict[str, int] = defaultdict(int)
    for sample in history.samples:
        for node_id, running in sample.running.items():
            worst[node_id] = max(worst[node_id], running)
    for node_id, most in worst.items():
        if most > history.slots[node_id]:
            yield f"{node_id} ran {most} tasks at once and takes {history.slots[node_id]}"


def room_is_free_again(history: History) -> Violations:
    for attempt in history.attempts:
        # A server that takes over may not have heard of the end; after that it is told again.
        seen = [at for at in attempt.listed if not disturbed(history, at, bound(history))]
        if attempt.ended is None or not seen:
            continue
        if max(seen) > due(history, attempt.ended, bound(history)):
            late = max(seen) - attempt.ended
            yield f"{attempt.node_id} kept room for {attempt.attempt_id} {late:.1f} s after it had ended"


def no_stall(history: History) -> Violations:
    if (longest := longest_wait(history, history.began, history.reference_until)) > BOUND_SECONDS:
        yield f"without any fault no task began for {longest:.1f} s"
    for number, fault in enumerate(history.faults):
        longest = longest_wait(history, fault.ended, window_end(history, number))
        if longest > bound(history):
            yield f"after {fault.name} no task began for {longest:.1f} s, with work waiting and room free"


def the_backlog_drains(history: History) -> Violations:
    for number, fault in enumerate(history.faults):
        ratio = drain_ratio(history, number)
        # Of so few tasks one more or less says nothing.
        expected = _reference(history, number) * (window_end(history, number) - fault.ended - BOUND_SECONDS)
        if ratio is not None and ratio < DRAIN_RATIO / _more_crowded(history, number) - 1 / expected:
            yield f"after {fault.name} the pool ran at {ratio:.0%} of its pace"


def no_run_outlives_its_attempt(history: History) -> Violations:
    ended = {it.attempt_id: it.ended for it in history.attempts}
    for run in history.runs:
        end = ended.get(run.attempt_id)
        if end is None:
            continue
        deadline = due(history, end, OUTLIVES_SECONDS)
        if run.ended > deadline:
            yield f"{run.node_id} ran {run.attempt_id} {run.ended - end:.1f} s after its attempt had ended"
    yield from history.leftovers


def errors_are_proper(history: History) -> Violations:
    """While something is broken a user is told so, in the right words; and soon after it is over, nothing."""
    for call in history.calls:
        if not call.error:
            continue
        if call.error not in PROPER_ERRORS:
            yield f"{call.name} answered {call.error}: {call.message}"
        elif not call.message:
            yield f"{call.name} answered {call.error} without a word"
        elif not _excused(history, call):
            yield f"{call.name} answered {call.error} with nothing broken: {call.message}"


def honest_nodes_keep_their_credit(history: History) -> Violations:
    """Unless the node itself failed while it may have had the task."""
    accepted_at = {task.task_id: task.accepted for task in history.tasks}
    for change in history.credit:
        if change.delta >= 0:
            continue
        accepted = accepted_at.get(change.task_id, history.began)
        if not any(
            fault.blames == change.node_id and fault.began <= change.seen and accepted <= fault.ended
            for fault in history.faults
        ):
            yield f"the owner of {change.node_id} lost {-change.delta} credit: {change.reason}"
    for node_id in set(history.on_probation) - {fault.blames for fault in history.faults}:
        yield f"{node_id} is on probation and did nothing wrong"


RULES: dict[str, Rule] = {
    "nothing lost": nothing_is_lost,
    "nothing doubled": nothing_is_doubled,
    "nothing paid twice": nothing_is_paid_twice,
    "never over capacity": never_over_capacity,
    "room free within 5 s": room_is_free_again,
    "no stall over 5 s": no_stall,
    "backlog drains": the_backlog_drains,
    "no run outlives its attempt": no_run_outlives_its_attempt,
    "errors are proper": errors_are_proper,
    "credit is kept": honest_nodes_keep_their_credit,
}


def violations(history: History) -> dict[str, list[str]]:
    return {name: list(rule(history)) for name, rule in RULES.items()}


# -- measures ----------------------------------------------------------------------------------------------
def bound(history: History) -> float:
    """5 s, and what the pool took at most without any fault: a busy machine is no fault of the pool."""
    return BOUND_SECONDS + longest_wait(history, history.began, history.reference_until)


def longest_wait(history: History, began: float, until: float) -> float:
    """The longest time within these in which work waited, room was free, and no task began."""
    starts = {run.began for run in history.runs}
    excuses = {sample.at for sample in history.samples if not _could(history, sample)}
    steps = sorted({began, until} | {it for it in starts | excuses if began < it < until})
    paused = history.pauses
    longest = 0.0
    for a, b in pairwise(steps):
        away = sum(max(0.0, min(b, it.ended) - max(a, it.began)) for it in paused)
        longest = max(longest, b - a - away)
    return longest


def pace(history: History, began: float, until: float) -> float:
    """Tasks that ended in a second."""
    ended = sum(1 for task in history.tasks if task.ended is not None and began < task.ended <= until)
    return ended / (until - began)


def drain_ratio(history: History, number: int) -> float | None:
    """The pace after a fault beside that without any, as it was before all of them or right before this one,
    whichever was slower: what else the machine does comes and goes. None: too short to say."""
    after, reference = _calm_pace(history, number), _reference(history, number)
    return after / reference if after is not None and reference else None


def _more_crowded(history: History, number: int) -> float:
    """How many times as many processes wanted the machine after this fault as before all of them."""
    since = history.faults[number].ended
    after = _crowd(history, since, window_end(history, number))
    return max(1.0, after / _crowd(history, history.began, history.reference_until))


def _crowd(history: History, began: float, until: float) -> float:
    seen = [max(1.0, it.crowd) for it in history.samples if began <= it.at <= until]
    return sum(seen) / len(seen) if seen else 1.0


def _reference(history: History, number: int) -> float:
    before = _calm_pace(history, number - 1) if number else None
    first = pace(history, history.began, history.reference_until)
    return min(first, before) if before else first


def _calm_pace(history: History, number: int) -> float | None:
    began, until = history.faults[number].ended + BOUND_SECONDS, window_end(history, number)
    return pace(history, began, until) if until - began >= DRAIN_LEAST_SECONDS else None


def _could(history: History, sample: Sample) -> bool:
    """Whether a task could have begun: not where SQL was away, nobody waited, or all nodes were full."""
    free = sum(max(0, history.slots[node] - sample.running.get(node, 0)) for node in sample.ready)
    return bool(sample.waiting) and free > 0


def _excused(history: History, call: Call) -> bool:
    """Whether something was broken while it was made, or had been right before it began."""
    after = bound(history)
    return any(
        it.began <= call.ended and call.began <= it.ended + after for it in (*history.faults, *history.pauses)
    )
