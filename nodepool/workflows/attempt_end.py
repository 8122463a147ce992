"""The end of an attempt in one transaction: read what it is decided on, decide, apply.

Everything is read and locked in one place and in one order: the parent task, the attempt with its task and
node, the ledger's head, users. The decision is pure (domain/ends/attempt_end.py). What it comes to is
applied by updates that name the state that was read; where one of them finds another state, the attempt
is stale. What is told outside SQL afterwards, `lifecycle` tells.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

from nodepool.domain import ids
from nodepool.domain.ends import node_end
from nodepool.domain.ends.attempt_end import (
    AttemptEndSnapshot,
    End,
    EndingAttempt,
    EndingTask,
    ToBeKnown,
    decide,
    to_be_known,
    with_end,
)
from nodepool.domain.ends.effects import Effects, FamilyEffects, FollowUp
from nodepool.domain.ends.task_runs import ParentTask, TaskFamily
from nodepool.domain.errors import StaleAttemptError
from nodepool.domain.resources import Claim
from nodepool.domain.tasks.states import TaskState
from nodepool.domain.trust.provisional import TrustEffects, TrustFacts
from nodepool.settings import Settings
from nodepool.stores.sql import (
    credit as credit_store,
    ending_attempts,
    provisional_results,
    replicas,
    verification_records,
)
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.workflows import end_events, run_facts
from nodepool.workflows.decision import Deciding, deciding
from nodepool.workflows.run_facts import TrustQuestion

__all__ = ["Deciding", "Ended", "apply", "deciding", "end_in_sql", "read"]


@dataclass(frozen=True, slots=True)
class Ended:
    """What the end of an attempt did to its task. `changed` is False when it was told before.

    `node_changed`: ranking and reservations see the node differently now.
    """

    task: EndingTask  # as it was before
    state: TaskState
    claim: Claim
    node_id: str
    changed: bool
    node_changed: bool = False
    follow_up: FollowUp | None = None  # of a run of a task with several
    wait_until: float = 0.0  # before its next try
    tiers_changed: frozenset[int] = frozenset()  # users whose credit score opens another tier now


def end_in_sql(
    connection: Connection,
    attempt_id: str,
    node_id: str,
    owner_id: int,
    end: End,
    *,
    settings: Settings,
    now: float,
) -> Ended:
    """All that SQL is to know of the end of an attempt, in the caller's transaction.

    Told again with the same outcome it changes nothing; a stale attempt raises StaleAttemptError.
    """
    by = deciding(settings, now)
    snapshot = read(connection, attempt_id, node_id, owner_id, end, by)
    effects = decide(snapshot, end, by.rules, by.now, by.tickets)
    apply(connection, effects)
    end_events.note_end(connection, snapshot.attempt, end, effects)
    return _ended(snapshot.attempt, effects)


def _ended(attempt: EndingAttempt, effects: Effects) -> Ended:
    return Ended(
        task=attempt.task,
        state=effects.moved.state if effects.moved is not None else attempt.task.state,
        claim=attempt.claim,
        node_id=attempt.node.id,
        changed=not effects.told_before,
        node_changed=effects.refusals is not None
        or (effects.history is not None and effects.history.seen_differently),
        follow_up=effects.follow_up,
        wait_until=effects.moved.wait_until if effects.moved is not None else 0.0,
        tiers_changed=effects.tiers_changed,
    )


# -- read -----------------------------------------------------------------------------------------------
def read(
    connection: Connection, attempt_id: str, node_id: str, owner_id: int, end: End, by: Deciding
) -> AttemptEndSnapshot:
    """Locks what the end may change. Raises NotFoundError, and StaleAttemptError for an attempt that is not
    the current one any more."""
    parent = replicas.lock_parent_of(connection, attempt_id)
    attempt = _with_suspicion(
        connection, ending_attempts.lock(connection, attempt_id, node_id, owner_id), end, by.now
    )
    want = to_be_known(attempt, end, by.rules, by.now, by.tickets, is_run=parent is not None)
    elsewhere = ending_attempts.runs_elsewhere(connection, attempt) if want.elsewhere else ()
    hold = ledger_store.find_held(connection, attempt.task.id) if want.hold else None
    others = want.others and replicas.somebody_else(
        connection, {attempt.node.owner_id, attempt.task.owner_id}, allow_pushed=by.allow_pushed
    )
    family = _family(connection, parent, by) if parent is not None and want.family else None
    question = _question(attempt, end, want, by, family=family, others=others)
    trust = _trust(connection, question, by)
    changes = [*(question.changes if question is not None else ()), *([want.change] if want.change else ())]
    moves_money = hold is not None or (family is not None and family.hold is not None)
    return AttemptEndSnapshot(
        attempt=attempt,
        elsewhere=elsewhere,
        hold=hold,
        others=others,
        family=family,
        trust=trust,
        scores=run_facts.read_scores(connection, changes, by, moves_money=moves_money),
    )


def _with_suspicion(connection: Connection, attempt: EndingAttempt, end: End, now: float) -> EndingAttempt:
    if not end.counts_against_task or not attempt.is_a_strangers:
        return attempt
    since = now - node_end.SUSPECT_SECONDS
    owners = credit_store.owners_charged_for_losses(connection, attempt.task.owner_id, since)
    is_suspect = owners >= node_end.SUSPECT_AFTER_OWNERS
    return replace(attempt, task=replace(attempt.task, is_suspect=is_suspect))


def _family(connection: Connection, parent: ParentTask, by: Deciding) -> TaskFamily:
    if parent.replicas == 1:
        # What a check decides on is changed by others, too, under this lock only.
        ledger_store.lock(connection)
    return run_facts.read_family(connection, parent, by)


def _question(
    attempt: EndingAttempt,
    end: End,
    want: ToBeKnown,
    by: Deciding,
    *,
    family: TaskFamily | None,
    others: bool,
) -> TrustQuestion | None:
    """What is to be known of the trust in nodes and owners; None: nothing."""
    task, node, question = attempt.task, attempt.node, None
    if family is not None:
        family = with_end(family, attempt, end, by.rules, by.now)
        question = run_facts.asked_at_end_of_check(family, by)
    elif others:
        question = TrustQuestion(
            nodes=frozenset({node.id}),
            owners=frozenset({node.owner_id}),
            reach_of=task.id,
            besides=frozenset({task.owner_id, node.owner_id}),
        )
    if want.found_false:
        question = (question or TrustQuestion()).and_node(node.id, node.owner_id)
    return question


def _trust(connection: Connection, question: TrustQuestion | None, by: Deciding) -> TrustFacts | None:
    if question is None:
        return None
    ledger_store.lock(connection)
    return run_facts.read_trust(connection, question, by)


# -- apply ----------------------------------------------------------------------------------------------
def apply(connection: Connection, effects: Effects) -> None:
    """Nothing is decided here. Raises StaleAttemptError where something is not as it was decided on."""
    now = effects.now
    if effects.closed is not None:
        ending_attempts.close(connection, effects.closed, now)
    if effects.moved is not None:
        ending_attempts.move_task(connection, effects.moved, now)
    if effects.history is not None:
        ending_attempts.put_history(connection, effects.history)
    if effects.refusals is not None:
        ending_attempts.put_refusals(connection, effects.refusals)
    if effects.family is not None:
        _apply_family(connection, effects.family, now)
        end_events.note_parent_end(connection, effects.family, effects)
    if effects.settlement is not None and not ledger_store.end(connection, effects.settlement, now):
        raise StaleAttemptError
    if effects.try_paid is not None and not ledger_store.pay_try(connection, effects.try_paid, now):
        raise StaleAttemptError
    _apply_trust(connection, effects.trust, now)
    added: dict[str, list[int]] = defaultdict(list)
    for run in effects.added:
        added[ids.parent_of(run.task_id)].append(ids.run_number(run.task_id))
    for parent_id, numbers in added.items():
        replicas.add_runs_of(connection, parent_id, numbers, now)
    credit_store.put(connection, effects.scores, now)


def _apply_family(connection: Connection, family: FamilyEffects, now: float) -> None:
    if family.ended is not None:
        replicas.end_parent(connection, family.task_id, family.ended, now)
    if family.replaced is not None:
        replicas.replace_result(connection, family.task_id, family.replaced, now)
    for run_id, verdict in family.verdicts:
        replicas.put_verdict(connection, run_id, verdict)
    if family.dropped:
        replicas.drop_open(connection, family.task_id, family.dropped, now)


def _apply_trust(connection: Connection, trust: TrustEffects, now: float) -> None:
    for node_id, node in trust.nodes.items():
        verification_records.put_node(connection, node_id, node)
    for owner_id, owner in trust.owners.items():
        verification_records.put_owner(connection, owner_id, owner)
    for node_id, results in trust.watched.items():
        verification_records.watch(connection, node_id, results)
    if trust.looked_at:
        verification_records.one_less_to_watch(connection, trust.looked_at)
    if trust.kept is not None:
        provisional_results.keep(connection, trust.kept)
    for check in trust.checks:
        provisional_results.put_under_check(connection, check)
    for task_id, word in trust.forgotten:
        provisional_results.forget(connection, task_id, word)
    if trust.movements:
        ledger_store.move(connection, trust.movements, now)
