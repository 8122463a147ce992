"""AdminService: requests in, use cases called, replies out. No rules here; the table of roles has them."""

# Names and arguments are the protocol's.
# ruff: noqa: N802, ARG002
from __future__ import annotations

from gateway.admission.arrival import Context
from gateway.auth.callers import current_identity
from gateway.context import Gateway
from gateway.servicers.admin_tasks import AdminTaskCalls
from gateway.usecases import admin, disk_use
from gateway.usecases.explain_task import Explainer
from nodepool.protocol import nodepool_pb2 as pb, nodepool_pb2_grpc as rpc


class AdminServicer(AdminTaskCalls, rpc.AdminServiceServicer):
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._explainer = Explainer(gateway)

    async def Mint(self, request: pb.MintRequest, context: Context) -> pb.AdminResponse:
        message = await self._gateway.run(admin.mint, self._gateway, current_identity(), request)
        return pb.AdminResponse(success=True, message=message)

    async def SetCreditScore(self, request: pb.SetCreditScoreRequest, context: Context) -> pb.AdminResponse:
        message = await self._gateway.run(admin.set_score, self._gateway, current_identity(), request)
        return pb.AdminResponse(success=True, message=message)

    async def SetUserBlocked(self, request: pb.SetUserBlockedRequest, context: Context) -> pb.AdminResponse:
        message = await self._gateway.run(admin.set_blocked, self._gateway, current_identity(), request)
        return pb.AdminResponse(success=True, message=message)

    async def ListUsers(self, request: pb.ListUsersRequest, context: Context) -> pb.ListUsersResponse:
        return await self._gateway.run_list(admin.list_users, self._gateway, request)

    async def GetDiskUse(self, request: pb.GetDiskUseRequest, context: Context) -> pb.GetDiskUseResponse:
        return await self._gateway.run_list(disk_use.of_pool, self._gateway, request)

    async def ReversePayment(self, request: pb.ReversePaymentRequest, context: Context) -> pb.AdminResponse:
        message = await self._gateway.run(admin.reverse, self._gateway, current_identity(), request)
        return pb.AdminResponse(success=True, message=message)

    async def ListAdminActs(
        self, request: pb.ListAdminActsRequest, context: Context
    ) -> pb.ListAdminActsResponse:
        return await self._gateway.run_list(admin.list_acts, self._gateway, request)
