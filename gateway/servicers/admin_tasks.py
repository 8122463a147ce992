"""The calls of AdminService about tasks: requests in, use cases called, replies out. No rules here."""

# Names and arguments are the protocol's.
# ruff: noqa: N802, ARG002
from __future__ import annotations

from gateway import messages as views
from gateway.admission.arrival import Context
from gateway.auth.callers import current_identity
from gateway.context import Gateway
from gateway.servicers.task_logs import logs_of
from gateway.usecases import admin_tasks
from gateway.usecases.explain_task import Explainer
from nodepool import wire
from nodepool.protocol import nodepool_pb2 as pb


class AdminTaskCalls:
    """A part of AdminServicer."""

    _gateway: Gateway
    _explainer: Explainer

    async def ListUserTasks(self, request: pb.ListUserTasksRequest, context: Context) -> pb.ListTasksResponse:
        rows, token = await self._gateway.run_list(
            admin_tasks.list_all,
            self._gateway,
            current_identity(),
            wire.filter_from_wire(request.filter),
            request.username,
            request.page_size,
            request.page_token,
        )
        return views.task_page(rows, token, self._gateway.settings.retention)

    async def ShowUserTask(self, request: pb.UserTaskRequest, context: Context) -> pb.PollTaskStatusResponse:
        shown = await self._gateway.run(admin_tasks.show, self._gateway, current_identity(), request.task_id)
        row = shown.row
        return pb.PollTaskStatusResponse(
            task_id=row.id,
            status=views.status_word(row),
            message=views.status_message(row),
            detail=views.task_detail(row, self._gateway.settings.retention, shown.attempts, shown.runs),
        )

    async def ExplainUserTask(self, request: pb.UserTaskRequest, context: Context) -> pb.ExplainTaskResponse:
        row = await self._gateway.run(
            admin_tasks.to_explain, self._gateway, current_identity(), request.task_id
        )
        return await self._gateway.run_list(self._explainer.of_task, row)

    async def GetUserTaskLogs(self, request: pb.UserTaskRequest, context: Context) -> pb.GetTaskLogsResponse:
        admin = current_identity()
        row = await self._gateway.run(
            admin_tasks.to_read, self._gateway, admin, request.task_id, request.reason
        )
        return await logs_of(self._gateway, row, admin.user_id)

    async def StopUserTask(self, request: pb.UserTaskRequest, context: Context) -> pb.AdminResponse:
        message = await self._gateway.run(
            admin_tasks.stop, self._gateway, current_identity(), request.task_id, request.reason
        )
        return pb.AdminResponse(success=True, message=message)
