"""The steps of what is asked about oneself and about the pool, and no task in particular."""

from __future__ import annotations

import time

from hivemind import jobs as job_records
from hivemind.errors import ClientError, NotLoggedInError
from hivemind.models import TaskInfo, task_from_list
from hivemind.nodes import NodeInfo, node_from_wire
from hivemind.steps import Call, Steps
from hivemind.tokens import read_token
from nodepool.domain.safe_text import harmless
from nodepool.protocol import nodepool_pb2 as pb

_PAGE = 1000


def tasks() -> Steps[list[TaskInfo]]:
    """Newest first."""
    answer = yield Call("tasks", "GetAllTasks", pb.GetAllTasksRequest())
    if not answer.success:
        raise ClientError(answer.message or None)
    found = map(task_from_list, answer.tasks)
    return sorted(found, key=lambda task: (-task.created_at, task.task_id))


def jobs() -> Steps[list[job_records.JobInfo]]:
    """Newest first."""
    found: list[job_records.JobInfo] = []
    token = ""
    while True:
        answer = yield Call("tasks", "ListJobs", pb.ListJobsRequest(page_size=_PAGE, page_token=token))
        found += map(job_records.job_from_wire, answer.jobs)
        token = answer.next_page_token
        if not token:
            return found


def nodes() -> Steps[tuple[NodeInfo, ...]]:
    answer = yield Call("nodes", "GetNodeList", pb.GetNodeListRequest(include_offline=True))
    if not answer.success:
        raise ClientError(answer.message or None)
    return tuple(sorted(map(node_from_wire, answer.nodes), key=lambda node: node.node_id))


def images() -> Steps[tuple[str, ...]]:
    answer = yield Call("nodes", "GetNodeList", pb.GetNodeListRequest())
    return tuple(answer.images)


def as_whom(token: str) -> str:
    """` as ada`; empty where the token does not say, or has expired."""
    try:
        identity = read_token(token)
    except NotLoggedInError:
        return ", not logged in"
    return f" as {harmless(identity.username)}{', expired' if identity.expired(time.time()) else ''}"
