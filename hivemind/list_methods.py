"""What `NodePoolClient` can do with several tasks: a part of it, and nothing by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from hivemind.jobs import JobInfo
from hivemind.models import TaskInfo
from hivemind.selectors import NamedIds, select
from hivemind.signed_in import SignedIn
from hivemind.task_lists import limited, own_tasks, task_filter
from hivemind.waiting import ends
from nodepool.domain.tasks.states import TaskState
from nodepool.protocol import nodepool_pb2 as pb


class ListMethods(SignedIn):
    def tasks(
        self,
        *,
        name: str = "",
        labels: Mapping[str, str] | None = None,
        states: Iterable[TaskState] = (),
        node: str = "",
        since: float = 0.0,
        until: float = 0.0,
        limit: int = 0,
    ) -> Iterator[TaskInfo]:
        """Your tasks of which all holds that is asked for, newest first; fetched page by page as you go on.

        `labels`: each with this value. `since` and `until`: when they were submitted, Unix seconds. `limit`:
        at most so many; 0: all. Raises RefusedError before anything is sent.
        """
        self._need_token()
        wanted = task_filter(
            name=name, labels=labels or {}, states=tuple(states), node_id=node, since=since, until=until
        )
        return limited(own_tasks(self._gateway, wanted, limit), limit)

    def ends(
        self, *ids: str, jobs: Iterable[str] = (), timeout_seconds: float | None = None
    ) -> Iterator[TaskInfo | JobInfo]:
        """These tasks and jobs, each as soon as it has ended; nothing is asked again and again.

        More than a thousand are waited for a thousand after another. Raises NotYetError after the time.
        """
        self._need_token()
        return ends(self._gateway, ids, tuple(jobs), timeout_seconds=timeout_seconds)

    def select(
        self,
        names: str | Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        *,
        states: Iterable[TaskState] = (),
    ) -> NamedIds:
        """What `names` mean (ids, or beginnings that only one of your tasks and jobs has), or your tasks with
        all of `labels`, those in one of `states` (none: all).

        Raises MissingError where there is nothing, RefusedError where several begin so.
        """
        self._need_token()
        # One name is itself, and not each of its letters.
        return select(
            self._gateway, [names] if isinstance(names, str) else names, labels, states=tuple(states)
        )

    def images(self) -> tuple[str, ...]:
        """What tasks may name as their image, first that of tasks that name none. Empty: an older pool."""
        self._need_token()
        return tuple(self._gateway.call(self._gateway.nodes.GetNodeList, pb.GetNodeListRequest()).images)
