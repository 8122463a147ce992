"""MasterNodeService: requests in, use cases called, replies out. No rules here."""

# Names and arguments are the protocol's.
# ruff: noqa: N802, ARG002
from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from gateway import messages as views
from gateway.admission.arrival import Context
from gateway.auth.callers import current_identity, current_identity_or_none
from gateway.context import Gateway
from gateway.servicers.jobs import JobCalls
from gateway.servicers.task_lists import ListCalls
from gateway.servicers.task_logs import earlier, logs_of
from gateway.usecases import notify_targets, pushed_attempts, removal, submit_task, tasks, watch_task
from gateway.usecases.announced_package import Announced
from gateway.usecases.explain_task import Explainer
from gateway.usecases.incoming_package import IncomingPackage
from gateway.usecases.output_text import last_lines
from gateway.usecases.repeated_upload import Accepted
from gateway.usecases.result_digests import Digests
from nodepool.domain.errors import InvalidInputError, NotFoundError, StateConflictError, TooLargeError
from nodepool.protocol import nodepool_pb2 as pb, nodepool_pb2_grpc as rpc
from nodepool.stores.files.disk import disk_errors
from nodepool.stores.redis.output import OutputWindow

_MAX_POLLED_LINES = 1000
# What a reply needs around a result.
_REPLY_ROOM_BYTES = 4096


class MasterNodeServicer(ListCalls, JobCalls, rpc.MasterNodeServiceServicer):
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._explainer = Explainer(gateway)
        self._digests = Digests(gateway)

    async def UploadTask(self, request: pb.UploadTaskRequest, context: Context) -> pb.UploadTaskResponse:
        gateway = self._gateway
        columns = submit_task.requested_task(gateway, request)
        announced = Announced(request.package_bytes, request.package_sha256)
        announced.take(request.task_zip)
        announced.check_whole()
        package = IncomingPackage.of_bytes(request.task_zip)
        return _uploaded(await submit_task.submit(gateway, current_identity(), columns, package))

    async def UploadTaskStream(
        self, request_iterator: AsyncIterator[pb.UploadTaskStreamRequest], context: Context
    ) -> pb.UploadTaskResponse:
        gateway, owner = self._gateway, current_identity()
        first = await anext(aiter(request_iterator), None)
        if first is None or first.WhichOneof("part") != "task":
            raise InvalidInputError("the first message must be the task")
        columns = submit_task.requested_task(gateway, first.task)
        submit_task.check_size(gateway, first.task.package_bytes)
        size, sha256 = first.task.package_bytes, first.task.package_sha256
        announced = Announced(size, sha256)
        await gateway.run(submit_task.check_before_it_comes, gateway, owner, columns, size, sha256.lower())
        with disk_errors(), gateway.files.spool() as file:
            package = IncomingPackage(file)
            async for message in request_iterator:
                if message.WhichOneof("part") != "zip_chunk":
                    raise InvalidInputError("after the first message only pieces of the package may come")
                submit_task.check_size(gateway, package.size + len(message.zip_chunk))
                announced.take(message.zip_chunk)
                await gateway.run(package.add, message.zip_chunk)
            announced.check_whole()
            return _uploaded(await submit_task.submit(gateway, owner, columns, package))

    async def PollTaskStatus(
        self, request: pb.PollTaskStatusRequest, context: Context
    ) -> pb.PollTaskStatusResponse:
        gateway, identity = self._gateway, current_identity_or_none()
        row = await gateway.run(tasks.find_own, gateway, identity, request.task_id)
        attempts = await gateway.run(tasks.attempts_of_task, gateway, row)
        runs = await gateway.run(tasks.runs_of_task, gateway, row)
        notify = row.notify if identity else ""
        told = await gateway.run(notify_targets.told, gateway, row.owner_id, row.id, notify) if notify else ()
        window = await tasks.output_of(gateway, row)
        with gateway.memory.hold(row.owner_id, len(window.data)):
            output = await gateway.run(_last_lines, window)
        return pb.PollTaskStatusResponse(
            task_id=row.id,
            status=views.status_word(row),
            output=output,
            message=views.status_message(row),
            # What a task is given is its owner's alone, also where anybody may ask how it is.
            detail=views.task_detail(
                row,
                gateway.settings.retention,
                attempts,
                runs,
                given=row if identity else None,
                told=told,
            ),
        )

    async def GetTaskLogs(self, request: pb.GetTaskLogsRequest, context: Context) -> pb.GetTaskLogsResponse:
        gateway = self._gateway
        try:
            row = await gateway.run(tasks.find_own, gateway, current_identity(), request.task_id)
        except NotFoundError as error:
            # Existing clients show the message of an answer, and of a status only that the call failed.
            return pb.GetTaskLogsResponse(success=False, message=str(error))
        return await logs_of(gateway, row, row.owner_id)

    async def GetTaskResult(
        self, request: pb.GetTaskResultRequest, context: Context
    ) -> pb.GetTaskResultResponse:
        gateway = self._gateway
        row = await gateway.run(tasks.find_own, gateway, current_identity(), request.task_id)
        if not views.is_final(row):
            return pb.GetTaskResultResponse(
                success=False, message=f"not finished yet: {views.status_message(row)}"
            )
        if not row.result_attempt:
            return pb.GetTaskResultResponse(
                success=False, message=f"the task ended without a result: {views.status_message(row)}"
            )
        if row.files_removed_at:
            return pb.GetTaskResultResponse(success=False, message=views.status_message(row))
        limit = gateway.settings.grpc_max_message_mb * (1 << 20) - _REPLY_ROOM_BYTES
        if row.result_bytes > limit:
            raise TooLargeError(f"the result has {row.result_bytes} bytes; fetch it with DownloadResult")
        gateway.reader.hold_until_sent(context, row.owner_id, row.result_bytes)
        data = await gateway.run(gateway.files.result_bytes, row.result_attempt)
        return pb.GetTaskResultResponse(success=True, message=views.status_message(row), result_zip=data)

    async def DownloadResult(
        self, request: pb.DownloadResultRequest, context: Context
    ) -> AsyncIterator[pb.DownloadResultResponse]:
        gateway = self._gateway
        row = await gateway.run(tasks.find_own, gateway, current_identity(), request.task_id)
        if views.is_held_back(row):
            raise StateConflictError(f"not finished yet: {views.status_message(row)}")
        if not row.result_attempt:
            raise NotFoundError(f"task {row.id!r} has no result: {views.status_message(row)}")
        if row.files_removed_at:
            raise removal.no_result(row)
        chunks = await gateway.run(gateway.files.open_result, row.result_attempt)
        total = row.result_bytes
        while chunk := await gateway.run(next, chunks, b""):
            yield pb.DownloadResultResponse(total_bytes=total, chunk=chunk)
            total = 0

    async def WatchTask(
        self, request: pb.WatchTaskRequest, context: Context
    ) -> AsyncIterator[pb.WatchTaskResponse]:
        async for event in watch_task.watch(self._gateway, current_identity(), request):
            yield event

    async def GetAllTasks(self, request: pb.GetAllTasksRequest, context: Context) -> pb.GetAllTasksResponse:
        rows = await self._gateway.run_list(tasks.list_own, self._gateway, current_identity())
        retention = self._gateway.settings.retention
        listed = [views.task_status(row, retention) for row in rows]
        return pb.GetAllTasksResponse(success=True, message=f"{len(rows)} tasks", tasks=listed)

    async def StopTask(self, request: pb.StopTaskRequest, context: Context) -> pb.StopTaskResponse:
        row = await self._gateway.run(tasks.stop, self._gateway, current_identity(), request.task_id)
        if views.is_final(row):
            return pb.StopTaskResponse(
                success=False, message=f"the task has ended already: {views.status_message(row)}"
            )
        if views.is_held_back(row):
            return pb.StopTaskResponse(
                success=True,
                message=f"task {row.id} has run; its result is given now, unchecked",
            )
        return pb.StopTaskResponse(success=True, message=f"task {row.id} is being stopped")

    async def DeleteTask(self, request: pb.DeleteTaskRequest, context: Context) -> pb.StatusResponse:
        await self._gateway.run(removal.delete, self._gateway, current_identity(), request.task_id)
        return pb.StatusResponse(success=True, message=f"task {request.task_id} is deleted")

    async def ExplainTask(self, request: pb.ExplainTaskRequest, context: Context) -> pb.ExplainTaskResponse:
        return await self._gateway.run_list(self._explainer.explain, current_identity(), request)

    async def StoreOutput(self, request: pb.StoreOutputRequest, context: Context) -> pb.StatusResponse:
        await self._gateway.run(
            pushed_attempts.store_line, self._gateway, current_identity(), request.task_id, request.output
        )
        return pb.StatusResponse(success=True, message="kept")

    async def StoreLogs(self, request: pb.StoreLogsRequest, context: Context) -> pb.StatusResponse:
        await self._gateway.run(
            pushed_attempts.store_logs,
            self._gateway,
            current_identity(),
            request.task_id,
            request.node_id,
            request.logs,
            request.timestamp,
        )
        return pb.StatusResponse(success=True, message="kept")

    async def StoreResult(self, request: pb.StoreResultRequest, context: Context) -> pb.StatusResponse:
        await self._store_result(request.task_id, request.result_zip)
        return pb.StatusResponse(success=True, message="kept")

    async def ReturnTaskResult(
        self, request: pb.ReturnTaskResultRequest, context: Context
    ) -> pb.ReturnTaskResultResponse:
        await self._store_result(request.task_id, request.result_zip)
        return pb.ReturnTaskResultResponse(success=True, message="kept")

    async def _store_result(self, task_id: str, result: bytes) -> None:
        gateway, identity = self._gateway, current_identity()
        attempt_id = await gateway.run(pushed_attempts.live_attempt, gateway, identity, task_id)
        # Not while its end is told: the digest is of the result that is there.
        with self._digests.telling(attempt_id):
            await gateway.run(pushed_attempts.store_result, gateway, identity, task_id, result)

    async def TaskCompleted(self, request: pb.TaskCompletedRequest, context: Context) -> pb.StatusResponse:
        gateway, identity = self._gateway, current_identity()
        done = await gateway.run(
            pushed_attempts.completed,
            gateway,
            identity,
            request.task_id,
            request.node_id,
            success=request.success,
        )
        with self._digests.telling(done.attempt_id):
            if done.live:
                end = await self._digests.added(identity.user_id, done.attempt_id, done.end)
                done = replace(done, end=end)
            await gateway.run(pushed_attempts.finish_attempt, gateway, identity, done)
        return pb.StatusResponse(success=True, message="the end is kept")


def _uploaded(accepted: Accepted) -> pb.UploadTaskResponse:
    word = "was accepted before; nothing was changed" if accepted.repeated else "is accepted"
    minutes = f"; {views.covered_text(accepted.max_minutes)}" if accepted.minutes_by_balance else ""
    return pb.UploadTaskResponse(
        success=True,
        message=f"task {accepted.task_id} {word}{minutes}",
        max_minutes=accepted.max_minutes,
        minutes_by_balance=accepted.minutes_by_balance,
        retries=accepted.retries,
        repeated_upload=accepted.repeated,
        stored_bytes=accepted.stored_bytes,
        stored_bytes_limit=accepted.stored_bytes_limit,
        inputs_kept=True,
        secrets_kept=True,
        order_kept=True,
        notify_kept=True,
    )


def _last_lines(window: OutputWindow) -> list[str]:
    lines, before = last_lines(window.data, _MAX_POLLED_LINES), earlier(window)
    return [before, *lines][-_MAX_POLLED_LINES:] if before else lines
