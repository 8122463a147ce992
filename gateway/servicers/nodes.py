"""NodeManagerService: requests in, use cases called, replies out. No rules here."""

# Names and arguments are the protocol's.
# ruff: noqa: N802, ARG002
from __future__ import annotations

from collections.abc import AsyncIterator

from gateway.admission.arrival import Context
from gateway.auth.callers import current_client, current_identity, current_identity_or_none
from gateway.context import Gateway
from gateway.health import in_words
from gateway.usecases import agent_attempts, agent_reports, flow_inputs, nodes
from gateway.usecases.result_digests import Digests
from nodepool.domain.capabilities import POOL as CAPABILITIES
from nodepool.domain.errors import InvalidInputError
from nodepool.domain.nodes.node import NodeKind
from nodepool.protocol import nodepool_pb2 as pb, nodepool_pb2_grpc as rpc
from nodepool.stores.files.writer import Writer
from nodepool.wire import unknown_fields

# Results are handed to the disk in pieces of about this size, so that small ones take one step.
_BATCH_BYTES = 1 << 20


class NodeManagerServicer(rpc.NodeManagerServiceServicer):
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._output = agent_attempts.OutputIntake(gateway)
        self._digests = Digests(gateway)

    async def RegisterWorkerNode(
        self, request: pb.RegisterWorkerNodeRequest, context: Context
    ) -> pb.StatusResponse:
        try:
            await self._gateway.run(
                nodes.register, self._gateway, current_identity(), request, current_client().exact
            )
        except nodes.REFUSALS as error:
            if request.kind == NodeKind.AGENT:
                raise
            # Existing workers show the message of an answer, and of a status only that the call failed.
            return pb.StatusResponse(success=False, message=str(error))
        return pb.StatusResponse(success=True, message=f"node {request.node_id} is registered")

    async def HealthCheck(self, request: pb.HealthCheckRequest, context: Context) -> pb.HealthCheckResponse:
        problems = in_words(self._gateway.health.problems())
        return pb.HealthCheckResponse(
            healthy=not problems, message=problems or "the pool works", capabilities=CAPABILITIES
        )

    async def ReportStatus(self, request: pb.ReportStatusRequest, context: Context) -> pb.StatusResponse:
        why = await self._gateway.run(
            nodes.report_status, self._gateway, current_identity(), request.node_id, unknown_fields(request)
        )
        # Heard either way: it is an answer, which existing workers show.
        return pb.StatusResponse(
            success=not why, message=f"this node gets no work: {why}" if why else "heard"
        )

    async def GetNodeList(self, request: pb.GetNodeListRequest, context: Context) -> pb.GetNodeListResponse:
        found = await self._gateway.run_list(
            nodes.listed, self._gateway, include_offline=request.include_offline
        )
        images = self._gateway.settings.image_allow_list if current_identity_or_none() else ()
        return pb.GetNodeListResponse(success=True, message=f"{len(found)} nodes", nodes=found, images=images)

    async def EnrollAgent(self, request: pb.EnrollAgentRequest, context: Context) -> pb.EnrollAgentResponse:
        return await self._gateway.run(
            nodes.enroll, self._gateway, current_identity(), request.node_id, request.instance
        )

    async def ReportAgent(self, request: pb.ReportAgentRequest, context: Context) -> pb.ReportAgentResponse:
        return await self._gateway.run(agent_reports.report, self._gateway, current_identity(), request)

    async def SetNodeDraining(
        self, request: pb.SetNodeDrainingRequest, context: Context
    ) -> pb.StatusResponse:
        await self._gateway.run(
            nodes.set_draining,
            self._gateway,
            current_identity(),
            request.node_id,
            draining=request.draining,
        )
        word = "takes no new work" if request.draining else "takes work again"
        return pb.StatusResponse(success=True, message=f"node {request.node_id} {word}")

    async def DeregisterNode(self, request: pb.DeregisterNodeRequest, context: Context) -> pb.StatusResponse:
        await self._gateway.run(nodes.deregister, self._gateway, current_identity(), request.node_id)
        return pb.StatusResponse(success=True, message=f"node {request.node_id} has left")

    async def ClaimAttempt(
        self, request: pb.ClaimAttemptRequest, context: Context
    ) -> AsyncIterator[pb.ClaimAttemptResponse]:
        gateway = self._gateway
        spec = await gateway.run(agent_attempts.claim, gateway, current_identity(), request)
        yield pb.ClaimAttemptResponse(spec=spec)
        if spec.package_follows:
            chunks = await gateway.run(agent_attempts.package_chunks, gateway, spec)
            while chunk := await gateway.run(next, chunks, b""):
                yield pb.ClaimAttemptResponse(package_chunk=chunk)

    async def FetchInput(
        self, request: pb.FetchInputRequest, context: Context
    ) -> AsyncIterator[pb.FetchInputResponse]:
        gateway = self._gateway
        chunks = await gateway.run(flow_inputs.chunks, gateway, current_identity(), request)
        while chunk := await gateway.run(next, chunks, b""):
            yield pb.FetchInputResponse(chunk=chunk)

    async def AppendOutput(
        self, request: pb.AppendOutputRequest, context: Context
    ) -> pb.AppendOutputResponse:
        return await self._gateway.run(self._output.append, current_identity(), request)

    async def FinishAttempt(
        self, request_iterator: AsyncIterator[pb.FinishAttemptRequest], context: Context
    ) -> pb.FinishAttemptResponse:
        gateway, identity = self._gateway, current_identity()
        first = await anext(aiter(request_iterator), None)
        if first is None or first.WhichOneof("part") != "end":
            raise InvalidInputError("the first message must be the attempt's end")
        end = first.end
        with self._digests.telling(end.attempt_id):
            writer = await gateway.run(agent_attempts.begin_result, gateway, identity, end)
            try:
                await self._take_result(request_iterator, end, writer)
                told = await gateway.run(agent_attempts.take_end, gateway, end, writer)
            except BaseException:
                if writer is not None:
                    await gateway.run(writer.abort)
                raise
            sha256 = end.result_sha256 if told.has_result else ""
            told = await self._digests.added(identity.user_id, end.attempt_id, told, sha256)
            await gateway.run(agent_attempts.finish, gateway, identity, end, told)
        return pb.FinishAttemptResponse(success=True, message="the end is kept")

    async def _take_result(
        self, messages: AsyncIterator[pb.FinishAttemptRequest], end: pb.AttemptEnd, writer: Writer | None
    ) -> None:
        """The result as it comes, never more than was announced."""
        batch: list[bytes] = []
        batched = taken = 0
        async for message in messages:
            if message.WhichOneof("part") != "result_chunk":
                raise InvalidInputError("after the attempt's end only pieces of its result may come")
            taken += len(message.result_chunk)
            if taken > end.result_bytes:
                raise InvalidInputError("more result came than was announced")
            if writer is None:
                continue
            batch.append(message.result_chunk)
            batched += len(message.result_chunk)
            if batched >= _BATCH_BYTES:
                await self._gateway.run(writer.write, b"".join(batch))
                batch, batched = [], 0
        if writer is not None and batch:
            await self._gateway.run(writer.write, b"".join(batch))
