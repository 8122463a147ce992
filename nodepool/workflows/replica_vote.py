"""A task with several runs: what follows from a stop, and from time where no run of it ends.

Functions of a connection, for the gateway and the sweep. What follows from the end of a run is part of that
end (see `attempt_end`), and by the same rules (domain/ends/replicated_end.py). Asked again, they change
nothing.
"""

from __future__ import annotations

from nodepool.domain.ends import replicated_end
from nodepool.domain.ends.effects import EndDecision, FollowUp
from nodepool.domain.ends.task_runs import ParentTask
from nodepool.domain.tasks.states import FINAL_TASK_STATES, TaskState
from nodepool.stores.sql import replicas, tasks as task_store
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.task_rows import OwnedTask
from nodepool.workflows import run_facts
from nodepool.workflows.attempt_end import apply
from nodepool.workflows.decision import Deciding


def is_due(connection: Connection, parent_id: str, by: Deciding) -> bool:
    """Whether follow_up would change something. Locks nothing."""
    parent = replicas.find(connection, parent_id)
    return parent is not None and replicated_end.is_due(run_facts.read_family(connection, parent, by), by.now)


def follow_up(connection: Connection, parent: ParentTask, by: Deciding) -> FollowUp:
    """`parent` is locked (see replicas.lock), and has several runs."""
    decision = by.decision()
    replicated_end.follow_up(run_facts.read_family(connection, parent, by), decision)
    return _applied(connection, parent, decision)


def stop(connection: Connection, task_id: str, by: Deciding) -> tuple[OwnedTask, FollowUp | None]:
    """task_store.request_stop, and of a task with several runs the stop of all of them."""
    before = task_store.request_stop(connection, task_id, by.now)
    if before.replicas == 1 or before.state in FINAL_TASK_STATES or before.state is TaskState.WAITING:
        return before, None  # what waits for others has no runs yet
    parent = replicas.find(connection, task_id)  # locked by the request
    if parent is None:
        return before, None
    if parent.state not in FINAL_TASK_STATES:
        return before, follow_up(connection, parent, by)
    decision = by.decision()
    replicated_end.never_ran(run_facts.read_family(connection, parent, by), decision)
    return before, _applied(connection, parent, decision)


def _applied(connection: Connection, parent: ParentTask, decision: EndDecision) -> FollowUp:
    effects = decision.effects()
    apply(connection, effects)
    return effects.told(parent.id)
