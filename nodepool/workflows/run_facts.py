"""What decisions on runs need to know, read from SQL in the order in which it is locked.

Nothing is decided and nothing is changed here. The order: parent task, attempt, ledger head, users.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from nodepool.domain.ends import check_end
from nodepool.domain.ends.task_runs import ParentTask, TaskFamily
from nodepool.domain.trust.audits import Reach
from nodepool.domain.trust.credit_moves import NewChange, Score
from nodepool.domain.trust.provisional import TrustFacts
from nodepool.stores.sql import (
    credit as credit_store,
    owner_relations,
    provisional_results,
    replicas,
    verification_records,
)
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.workflows.decision import Deciding


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustQuestion:
    """Of which nodes, owners and block the trust matters; `reach_of`: who could check this task."""

    nodes: frozenset[str] = frozenset()
    owners: frozenset[int] = frozenset()
    block: str = ""
    reach_of: str = ""
    besides: frozenset[int] = frozenset()  # owners who would not be asked
    submitter: int | None = None  # of the task that is checked, at a check's end
    changes: tuple[NewChange, ...] = ()  # of scores, that may follow

    def and_node(self, node_id: str, owner_id: int) -> TrustQuestion:
        return replace(self, nodes=self.nodes | {node_id}, owners=self.owners | {owner_id})


def read_family(connection: Connection, parent: ParentTask, by: Deciding) -> TaskFamily:
    """A task with its runs. Where it is locked, so is the ledger's head when its result is checked."""
    several = parent.replicas > 1
    checked = None if several else provisional_results.checked(connection, parent.id)
    runs = replicas.runs_of(connection, parent.id)
    owners = {parent.owner_id, *(run.provider for run in runs if run.provider_id is not None)}
    if checked is not None:
        owners.add(checked.owner_id)
    return TaskFamily(
        parent=parent,
        runs=runs,
        others=replicas.somebody_else(connection, owners, allow_pushed=by.allow_pushed),
        hold=ledger_store.find_held(connection, parent.id) if several else None,
        checked=checked,
    )


def asked_at_end_of_check(family: TaskFamily, by: Deciding) -> TrustQuestion | None:
    """None while the check has no answer."""
    result = family.checked
    if result is None or not check_end.ends(family, by.now):
        return None
    voters = [run for run in family.runs if run.result_digest and run.provider_id is not None]
    return TrustQuestion(
        nodes=frozenset({result.node_id, *(run.node_id for run in voters)}),
        owners=frozenset({result.owner_id, *(run.provider for run in voters)}),
        block=family.parent.id,
        reach_of=family.parent.id,
        besides=frozenset({family.parent.owner_id, result.owner_id}),
        submitter=family.parent.owner_id,
        changes=tuple(check_end.possible_changes(family, result)),
    )


def read_trust(connection: Connection, question: TrustQuestion, by: Deciding) -> TrustFacts:
    """The ledger's head is locked."""
    reach, related, raised, fees = Reach(0, 0), frozenset[frozenset[int]](), frozenset[int](), 0
    if question.reach_of:
        reach = owner_relations.reach(
            connection, question.reach_of, question.besides, allow_pushed=by.allow_pushed
        )
    if question.submitter is not None:
        related = owner_relations.related(connection, question.owners)
        raised = credit_store.raised_by(connection, question.owners, question.submitter, by.now)
        fees = provisional_results.fees(connection)
    return TrustFacts(
        results=provisional_results.of_nodes_and_block(connection, question.nodes, question.block),
        nodes=verification_records.of_nodes(connection, question.nodes),
        owners=verification_records.of_owners(connection, question.owners),
        reach=reach,
        related=related,
        raised=raised,
        fees=fees,
    )


def read_scores(
    connection: Connection, changes: Iterable[NewChange], by: Deciding, *, moves_money: bool
) -> Mapping[int, Score]:
    """Of those whom something may move, locked: the last, after the ledger's head where CPT are moved."""
    wanted: Collection[NewChange] = list(changes)
    if not wanted:
        return {}
    moving = credit_store.that_may_move(connection, wanted, start=by.rules.start_score, now=by.now)
    if not moving:
        return {}
    if moves_money:
        ledger_store.lock(connection)
    return credit_store.lock_scores(connection, moving, by.now)
