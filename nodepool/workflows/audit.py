"""Results that the pool checks: what follows without the end of an attempt, from time or from a probe.

Functions of a connection, for the sweep and the prober. Each reads under the ledger's head, lets the rules
decide (domain/ends/check_end.py, domain/trust/provisional.py) and applies what they say. Asked again, they
change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from nodepool.domain.ends import check_end
from nodepool.domain.ends.effects import Effects, FollowUp
from nodepool.domain.ends.task_runs import ParentTask
from nodepool.domain.trust.credit_moves import NewChange
from nodepool.domain.trust.provisional import AddedRun
from nodepool.stores.sql import provisional_results, replicas
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.workflows import run_facts
from nodepool.workflows.attempt_end import apply
from nodepool.workflows.decision import Deciding
from nodepool.workflows.run_facts import TrustQuestion


def is_due(connection: Connection, task_id: str, by: Deciding) -> bool:
    """Whether follow_up would change something. Locks nothing."""
    task = replicas.find(connection, task_id)
    return task is not None and check_end.is_due(run_facts.read_family(connection, task, by), by.now)


def follow_up(connection: Connection, task: ParentTask, by: Deciding) -> FollowUp:
    """The check of this task, which is locked (see replicas.lock)."""
    ledger_store.lock(connection)
    family = run_facts.read_family(connection, task, by)
    question = run_facts.asked_at_end_of_check(family, by)
    trust = run_facts.read_trust(connection, question, by) if question is not None else None
    changes = question.changes if question is not None else ()
    scores = run_facts.read_scores(connection, changes, by, moves_money=False)
    decision = by.decision(trust, scores)
    check_end.follow_up(family, decision)
    effects = decision.effects()
    apply(connection, effects)
    return effects.told(task.id)


def close_block(connection: Connection, node_id: str, by: Deciding) -> tuple[AddedRun, ...]:
    """The node's open block, where it is full by now: a block closes with time."""
    ledger_store.lock(connection)
    owners = frozenset(it.owner_id for it in provisional_results.of_nodes_and_block(connection, {node_id}))
    question = TrustQuestion(nodes=frozenset({node_id}), owners=owners)
    decision = by.decision(run_facts.read_trust(connection, question, by))
    decision.book.close_block(node_id)
    effects = decision.effects()
    apply(connection, effects)
    return effects.added


def found_false(connection: Connection, node_id: str, owner_id: int, by: Deciding) -> tuple[AddedRun, ...]:
    """The node gave a wrong answer where the pool knows the right one; the runs that wait because of it."""
    return judge(connection, node_id, owner_id, by, is_false=True).added


def judge(
    connection: Connection,
    node_id: str,
    owner_id: int,
    by: Deciding,
    *,
    is_false: bool,
    changes: Sequence[NewChange] = (),
) -> Effects:
    """What the pool found by itself of a node: that it lies, and what that moves of its owner's score."""
    trust = None
    if is_false:
        ledger_store.lock(connection)
        question = TrustQuestion().and_node(node_id, owner_id)
        trust = run_facts.read_trust(connection, question, by)
    decision = by.decision(trust, run_facts.read_scores(connection, changes, by, moves_money=False))
    if is_false:
        decision.book.found_false(node_id, owner_id)
    decision.credit(changes)
    effects = decision.effects()
    apply(connection, effects)
    return effects
