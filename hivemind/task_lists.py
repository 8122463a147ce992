"""Lists of tasks that the pool filters and pages. Knows the connection and no command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from hivemind.channel import GatewayChannel
from hivemind.errors import RefusedError, UnsupportedError
from hivemind.models import TaskInfo, task_from_list
from nodepool.domain.errors import InvalidInputError
from nodepool.domain.tasks.states import TaskState
from nodepool.domain.tasks.task_filter import TaskFilter
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.wire import filter_to_wire

_PAGE = 1000


def task_filter(
    *,
    name: str = "",
    labels: Mapping[str, str],
    states: tuple[TaskState, ...] = (),
    node_id: str = "",
    job_id: str = "",
    since: float = 0.0,
    until: float = 0.0,
) -> TaskFilter:
    """Raises RefusedError."""
    try:
        return TaskFilter(
            name=name.strip(),
            labels=labels,
            states=states,
            node_id=node_id,
            job_id=job_id,
            since=since,
            until=until,
        )
    except InvalidInputError as error:
        raise RefusedError(str(error)) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise RefusedError(f"that is no question for tasks: {error}") from error


def limited(found: Iterator[TaskInfo], limit: int) -> Iterator[TaskInfo]:
    if limit < 0:
        raise RefusedError(f"limit must be 0 (for all) or more, not {limit}")
    return islice(found, limit or None)


def own_tasks(gateway: GatewayChannel, wanted: TaskFilter, limit: int) -> Iterator[TaskInfo]:
    asked, token = filter_to_wire(wanted), ""
    while True:
        request = pb.ListTasksRequest(filter=asked, page_size=page_size(limit), page_token=token)
        try:
            answer = gateway.call(gateway.tasks.ListTasks, request)
        except UnsupportedError:
            raise UnsupportedError("this pool is too old for lists that it filters itself") from None
        yield from map(task_from_list, answer.tasks)
        token = answer.next_page_token
        if not token:
            return


def page_size(limit: int) -> int:
    """Of a list of which so many are wanted; 0: all."""
    return min(limit, _PAGE) if limit else _PAGE
