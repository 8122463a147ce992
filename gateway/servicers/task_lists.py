"""The calls of MasterNodeService about several tasks: requests in, use cases called, replies out."""

# Names and arguments are the protocol's.
# ruff: noqa: N802, ARG002
from __future__ import annotations

from collections.abc import AsyncIterator

from gateway import job_messages, messages as views
from gateway.admission.arrival import Context
from gateway.auth.callers import current_identity
from gateway.context import Gateway
from gateway.usecases import task_lists, watch_tasks
from gateway.usecases.jobs import ShownJob
from nodepool import wire
from nodepool.protocol import nodepool_pb2 as pb


class ListCalls:
    """A part of MasterNodeServicer."""

    _gateway: Gateway

    async def ListTasks(self, request: pb.ListTasksRequest, context: Context) -> pb.ListTasksResponse:
        rows, token = await self._gateway.run_list(
            task_lists.list_own,
            self._gateway,
            current_identity(),
            wire.filter_from_wire(request.filter),
            request.page_size,
            request.page_token,
        )
        return views.task_page(rows, token, self._gateway.settings.retention)

    async def ResolveIds(self, request: pb.ResolveIdsRequest, context: Context) -> pb.ResolveIdsResponse:
        found = await self._gateway.run(
            task_lists.resolve, self._gateway, current_identity(), list(request.names)
        )
        return pb.ResolveIdsResponse(
            ids=[
                pb.ResolvedId(
                    name=it.name,
                    task_id=it.task_id,
                    job_id=it.job_id,
                    problem=it.problem,
                    candidates=it.candidates,
                )
                for it in found
            ]
        )

    async def WatchTasks(
        self, request: pb.WatchTasksRequest, context: Context
    ) -> AsyncIterator[pb.WatchTasksResponse]:
        retention = self._gateway.settings.retention
        async for found in watch_tasks.watch(self._gateway, current_identity(), request):
            if isinstance(found, ShownJob):
                yield pb.WatchTasksResponse(job=job_messages.job(found))
            else:
                yield pb.WatchTasksResponse(task=views.task_status(found, retention))
