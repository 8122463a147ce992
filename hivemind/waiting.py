"""The ends of many tasks and jobs, through one stream, through cut connections and gateways that come and go.

Knows the connection and no command. One task with its output is `watching.py`'s.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice

from hivemind import jobs, watching
from hivemind.channel import GatewayChannel, Retries
from hivemind.errors import NotYetError, TimedOutError, UnreachableError, UnsupportedError
from hivemind.jobs import JobInfo, job_from_wire
from hivemind.models import TaskInfo, task_from_list
from hivemind.watching import PATIENCE_SECONDS, Position
from nodepool.protocol import nodepool_pb2 as pb

#: So many are watched by one stream.
MOST_AT_ONCE = 1000
# A look at the pool takes that long, however soon the answer is wanted.
_LEAST_SECONDS = 1.0


def ends(
    gateway: GatewayChannel,
    task_ids: Sequence[str],
    job_ids: Sequence[str],
    *,
    timeout_seconds: float | None = None,
) -> Iterator[TaskInfo | JobInfo]:
    """See `NodePoolClient.ends`."""
    left_tasks, left_jobs = dict.fromkeys(task_ids), dict.fromkeys(job_ids)
    count = len(left_tasks) + len(left_jobs)
    deadline = None if timeout_seconds is None else time.monotonic() + max(timeout_seconds, _LEAST_SECONDS)
    retries, seen = Retries(gateway), False
    while left_tasks or left_jobs:
        tasks = list(islice(left_tasks, MOST_AT_ONCE))
        some_jobs = list(islice(left_jobs, MOST_AT_ONCE - len(tasks)))
        try:
            for found in _changes(gateway, tasks, some_jobs, deadline):
                retries.worked()
                seen = True
                if found.final:
                    left = left_tasks if isinstance(found, TaskInfo) else left_jobs
                    left.pop(_id(found), None)
                    yield found
            if not any(each in left_tasks for each in tasks) and not any(
                each in left_jobs for each in some_jobs
            ):
                continue
            problem = UnreachableError("the pool ended the watch early")
        except TimedOutError:
            raise NotYetError(
                f"{len(left_tasks) + len(left_jobs)} of {count} have not ended in time"
            ) from None
        except UnsupportedError:
            yield from _one_by_one(gateway, list(left_tasks), list(left_jobs), deadline)
            return
        except UnreachableError as error:
            problem = error
        # Who has seen nothing yet may have the wrong address, and wants to know soon.
        patient = seen and gateway.retry.patience_seconds
        retries.failed(problem, max(PATIENCE_SECONDS, gateway.retry.patience_seconds) if patient else None)


def _changes(
    gateway: GatewayChannel, tasks: Sequence[str], job_ids: Sequence[str], deadline: float | None
) -> Iterator[TaskInfo | JobInfo]:
    request = pb.WatchTasksRequest(task_ids=tasks, job_ids=job_ids)
    for event in gateway.stream(gateway.tasks.WatchTasks, request, deadline_seconds=_seconds_left(deadline)):
        kind = event.WhichOneof("event")
        if kind == "task":
            yield task_from_list(event.task)
        elif kind == "job":
            yield job_from_wire(event.job)


def _one_by_one(
    gateway: GatewayChannel, tasks: Sequence[str], job_ids: Sequence[str], deadline: float | None
) -> Iterator[TaskInfo | JobInfo]:
    """At a pool of before there was one stream for many: whoever has ended already waits for its turn."""
    for task_id in tasks:
        position = Position()
        for _ in watching.watch(gateway, task_id, position, timeout_seconds=_seconds_left(deadline)):
            pass
        if position.last is not None:
            yield position.last
    for job_id in job_ids:
        *_, last = jobs.looks(gateway, job_id, _seconds_left(deadline))
        yield last


def _seconds_left(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimedOutError
    return left


def _id(found: TaskInfo | JobInfo) -> str:
    return found.task_id if isinstance(found, TaskInfo) else found.job_id
