"""What the end of an attempt says of its node, and of its node's owner. Pure.

What a result is worth is not said here: a comparison says it (see `check_end`).
"""

from __future__ import annotations

from nodepool.domain.ends.effects import EndRules, HistoryChange, RefusalsChange
from nodepool.domain.ends.ending_attempt import End, EndingAttempt
from nodepool.domain.nodes import fitness, history, message_limits
from nodepool.domain.nodes.claimed_resources import PROVEN_AFTER
from nodepool.domain.nodes.fitness import Refusal
from nodepool.domain.nodes.history import AttemptRecord, MeasuredRun
from nodepool.domain.tasks.states import Outcome, TaskKind
from nodepool.domain.trust.credit import MOVES, Cause
from nodepool.domain.trust.credit_moves import NewChange, change_id

BAD_OUTCOMES = frozenset({Outcome.LOST, Outcome.REFUSED})
# Somebody's programs that bring down the agents of so many owners within so long are the likely cause
# themselves: what they do to others costs those nothing any more.
SUSPECT_AFTER_OWNERS, SUSPECT_SECONDS = 2, 86400.0
_RAN = frozenset({Outcome.SUCCEEDED, Outcome.FAILED})


def counts_for_node(attempt: EndingAttempt, end: End) -> bool:
    bad_for_others = end.outcome in BAD_OUTCOMES and not end.is_nodes_fault
    doubtful = end.outcome is Outcome.LOST and attempt.task.is_suspect
    return not (end.blameless or bad_for_others or doubtful or attempt.task.pinned_node)


def history_after(
    attempt: EndingAttempt, end: End, elsewhere: tuple[MeasuredRun, ...], rules: EndRules, now: float
) -> HistoryChange | None:
    before, node = attempt.node.history, attempt.node
    here = MeasuredRun(
        seconds=attempt.seconds(end, now),
        claimed_score=attempt.claim.cpu_score,
        node_score=node.cpu_score,
        node_cores=node.cpu_cores,
    )
    ending = AttemptRecord(
        outcome=end.outcome,
        counts=counts_for_node(attempt, end),
        handed_back=history.is_handed_back(end.outcome, draining=node.draining, active=node.active),
        bad_before=attempt.task.attempts_ended,
        speed=history.speed_of(here, elsewhere) if end.outcome is Outcome.SUCCEEDED else None,
    )
    after = history.after_end(before, ending, now, rules.history)
    if after == before:
        return None
    # A little of its good ends decays; who is near the bound may be looked at once more than needed.
    proven = (before.good >= PROVEN_AFTER) != (after.good >= PROVEN_AFTER)
    seen = proven or (after.quality, after.on_probation(rules.history)) != (
        before.as_of(now, rules.history).quality,
        before.on_probation(rules.history),
    )
    return HistoryChange(node_id=node.id, history=after, seen_differently=seen)


def refusals_after(attempt: EndingAttempt, end: End, now: float) -> RefusalsChange | None:
    """Whether its node is left alone for a while. Not one that hands back its work in good order."""
    node, task = attempt.node, attempt.task
    before = after = node.refusals
    if attempt.started_at is not None:
        size = message_limits.message_bytes(task.package_bytes)
        after = fitness.after_message(before, size, attempt.started_at)
    if end.outcome in _RAN:
        if attempt.is_a_strangers:
            after = fitness.after_run(after)
    elif end.outcome is Outcome.REFUSED and not history.is_handed_back(
        end.outcome, draining=node.draining, active=node.active
    ):
        refusal = Refusal(
            reason_class=end.reason_class,
            code=end.reason.code,
            user_id=task.owner_id,
            image=task.image,
            message_bytes=int(end.reason.parameters.get("limit_bytes", 0)),
        )
        after = fitness.after_refusal(after, refusal, now)
    return None if after == before else RefusalsChange(node_id=node.id, refusals=after)


def is_found_idle(attempt: EndingAttempt, end: End) -> bool:
    """The node took the run and did nothing: as if its result had been false."""
    return end.is_idleness and attempt.task.kind is not TaskKind.PROBE and attempt.is_a_strangers


def credit_of_end(attempt: EndingAttempt, end: End) -> NewChange | None:
    """What the end itself says of the node's owner; what a result is worth, a comparison says."""
    task, node = attempt.task, attempt.node
    # The pool's probes are judged by themselves.
    if not attempt.is_a_strangers or task.kind is TaskKind.PROBE or end.blameless:
        return None
    if end.is_idleness:
        return _change(attempt, Cause.IDLE, MOVES[Cause.IDLE].meaning)
    if end.late:
        return _change(attempt, Cause.LATE, f"it did not end its run: {end.reason}")
    if end.outcome is not Outcome.LOST or not end.is_nodes_fault:
        return None  # a refusal costs nothing: a node that says in time what it cannot do has done right
    handed_back = history.is_handed_back(end.outcome, draining=node.draining, active=node.active)
    # A task that was lost before is itself under suspicion, and so are all tasks of who sends several such.
    if handed_back or task.stop_requested or task.attempts_ended or task.is_suspect:
        return None
    return _change(attempt, Cause.LOST, f"{Cause.LOST}: {end.reason}")


def _change(attempt: EndingAttempt, cause: Cause, reason: str) -> NewChange:
    return NewChange(
        id=change_id(cause, attempt.id),
        user_id=attempt.node.owner_id,
        cause=cause,
        reason=reason,
        task_id=attempt.task.id,
        node_id=attempt.node.id,
    )
