"""WorkerNodeService on the pool's side: run on a node of mine, stop there, and nodes' reports."""

# Names and arguments are the protocol's.
# ruff: noqa: N802, ARG002
from __future__ import annotations

from gateway import messages as views
from gateway.admission.arrival import Context
from gateway.auth.callers import current_identity
from gateway.context import Gateway
from gateway.usecases import pushed_attempts, submit_task, tasks
from gateway.usecases.incoming_package import IncomingPackage
from nodepool.domain.errors import InvalidInputError
from nodepool.domain.ids import check_node_id
from nodepool.protocol import nodepool_pb2 as pb, nodepool_pb2_grpc as rpc


class WorkerNodeServicer(rpc.WorkerNodeServiceServicer):
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def ExecuteTask(self, request: pb.ExecuteTaskRequest, context: Context) -> pb.ExecuteTaskResponse:
        """Accept the task for this one node of the caller's; its end is polled or watched as any other's."""
        gateway = self._gateway
        needs = pb.UploadTaskRequest(
            task_id=request.task_id,
            cpu_score=request.cpu,
            gpu_score=request.gpu,
            memory_gb=request.memory_gb,
            gpu_memory_gb=request.gpu_memory_gb,
        )
        columns = submit_task.requested_task(gateway, needs)
        columns["pinned_node"] = check_node_id(request.node_id)
        package = IncomingPackage.of_bytes(request.task_zip)
        await submit_task.submit(gateway, current_identity(), columns, package)
        return pb.ExecuteTaskResponse(
            success=True, message=f"task {request.task_id} will run on {request.node_id}; poll or watch it"
        )

    async def StopTaskExecution(
        self, request: pb.StopTaskExecutionRequest, context: Context
    ) -> pb.StopTaskExecutionResponse:
        row = await self._gateway.run(tasks.stop, self._gateway, current_identity(), request.task_id)
        if views.is_final(row):
            return pb.StopTaskExecutionResponse(
                success=False, message=f"the task has ended already: {views.status_message(row)}"
            )
        return pb.StopTaskExecutionResponse(success=True, message=f"task {row.id} is being stopped")

    async def ReportOutput(self, request: pb.ReportOutputRequest, context: Context) -> pb.StatusResponse:
        if not request.node_id:
            raise InvalidInputError("node_id is missing")
        await self._gateway.run(
            pushed_attempts.store_output,
            self._gateway,
            current_identity(),
            request.task_id,
            request.node_id,
            request.output,
        )
        return pb.StatusResponse(success=True, message="kept")

    async def ReportRunningStatus(
        self, request: pb.RunningStatusRequest, context: Context
    ) -> pb.RunningStatusResponse:
        goes_on, reward = await self._gateway.run(
            pushed_attempts.running, self._gateway, current_identity(), request.task_id, request.node_id
        )
        return pb.RunningStatusResponse(
            success=goes_on,
            message="go on" if goes_on else "stop: its owner asked for its end",
            cpt_reward=reward,
        )
