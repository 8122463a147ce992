"""What a receiver is told: ids, names, states, times and sums, as JSON. Pure.

Nothing that a program is, reads or prints: neither output nor results, arguments, environment or secrets.
A node is named as its task's status names it. Times are Unix seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nodepool.domain.tasks.states import TaskState

# Longest reason that is told: it may have words of a node.
_MAX_REASON = 2000
# Of a whole body. What people can make long by themselves is bounded where it is taken.
MAX_BODY_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldTask:
    """A task as its owner sees it at its end."""

    id: str
    name: str
    labels: Mapping[str, str]
    state: TaskState
    reason: str
    reason_code: str
    exit_code: int | None
    node: str
    attempts: int
    created_at: float
    started_at: float | None
    finished_at: float
    paid_cpt: int
    job_id: str = ""
    resubmit_of: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldJob:
    """A job of which nothing is unfinished; `counts`: of its tasks by state."""

    id: str
    kind: str
    name: str
    labels: Mapping[str, str]
    tasks: int
    counts: Mapping[str, int]
    created_at: float
    finished_at: float
    paid_cpt: int
    was_stopped: bool
    resubmit_of: str = ""

    @property
    def state(self) -> TaskState:
        """As of one task: FAILED where one has failed, else STOPPED where one was stopped."""
        for state in (TaskState.FAILED, TaskState.STOPPED):
            if self.counts.get(state, 0):
                return state
        return TaskState.SUCCEEDED


def task_body(task: ToldTask) -> str:
    data = {
        "task_id": task.id,
        "name": task.name,
        "labels": dict(task.labels),
        "state": task.state,
        "reason": task.reason[:_MAX_REASON],
        "reason_code": task.reason_code,
        "exit_code": task.exit_code,
        "node": task.node,
        "attempts": task.attempts,
        "created_at": task.created_at,
        "started_at": task.started_at,
        "finished_at": task.finished_at,
        "paid_cpt": task.paid_cpt,
        "job_id": task.job_id,
        "resubmit_of": task.resubmit_of,
    }
    return _body("task.ended", task.finished_at, data)


def job_body(job: ToldJob) -> str:
    data = {
        "job_id": job.id,
        "kind": job.kind,
        "name": job.name,
        "labels": dict(job.labels),
        "state": job.state,
        "tasks": job.tasks,
        "counts": {state: job.counts[state] for state in sorted(job.counts) if job.counts[state]},
        "stop_requested": job.was_stopped,
        "created_at": job.created_at,
        "finished_at": job.finished_at,
        "paid_cpt": job.paid_cpt,
        "resubmit_of": job.resubmit_of,
    }
    return _body("job.ended", job.finished_at, data)


def body_of_test(target: str, user: str, now: float) -> str:
    return _body("test", now, {"target": target, "user": user})


def body_of_code(target: str, user: str, now: float) -> str:
    """Without the code: whoever sends it works it out."""
    return _body("code", now, {"target": target, "user": user})


def _body(kind: str, at: float, data: Mapping[str, Any]) -> str:
    text = json.dumps(
        {"type": kind, "timestamp": at, "data": data}, ensure_ascii=False, separators=(",", ":")
    )
    if len(text.encode()) > MAX_BODY_BYTES:  # names and labels have their bounds: this is for later fields
        raise ValueError(f"a notification of {len(text)} characters")
    return text
