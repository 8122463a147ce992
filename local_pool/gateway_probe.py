"""What `hivemind up` asks of its gateway: whether it serves, an account and its token, the nodes online.

A client like any other: over gRPC, with no way around it.
"""

from __future__ import annotations

from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nodepool.keepalive import way_options
from nodepool.protocol import nodepool_pb2 as pb, nodepool_pb2_grpc as rpc

CALL_SECONDS = 3.0
LOGIN_SECONDS = 10.0  # hashing a password is meant to be slow
ONLINE = "ONLINE"
# Of grpc.health.v1, as gateway/server.py has it.
GATEWAY_ALONE = "gateway"
_HOPELESS = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED)
_REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


class OperatorRefusedError(RuntimeError):
    """The gateway lets nobody in with the password that the data directory has."""


class GatewayProbe:
    """One channel. Calls take at most a few seconds; a gateway that is away is an answer, not an error."""

    def __init__(self, address: str, *, certificate: Path | None = None) -> None:
        options = [
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 500),
            *way_options(address),
        ]
        if certificate is None:
            self._channel = grpc.insecure_channel(address, options=options)
        else:
            credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
            self._channel = grpc.secure_channel(address, credentials, options=options)
        self._users = rpc.UserServiceStub(self._channel)
        self._nodes = rpc.NodeManagerServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self._token = ""

    def serves(self) -> bool:
        """The gateway alone: the dispatcher, without which the pool is not healthy, starts after it."""
        request = health_pb2.HealthCheckRequest(service=GATEWAY_ALONE)
        try:
            told = self._health.Check(request, timeout=CALL_SECONDS)
        except grpc.RpcError:
            return False
        return bool(told.status == health_pb2.HealthCheckResponse.SERVING)

    def problems(self) -> str | None:
        """What the gateway says is wrong with the pool, in words; None where it does not answer."""
        try:
            told = self._nodes.HealthCheck(pb.HealthCheckRequest(), timeout=CALL_SECONDS)
        except grpc.RpcError:
            return None
        return "" if told.healthy else told.message or "the pool does not work"

    def register(self, username: str, password: str) -> bool | None:
        """True: there is such an account now. False: there was one before. None: try again."""
        request = pb.RegisterRequest(username=username, password=password)
        try:
            self._users.Register(request, timeout=LOGIN_SECONDS)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.ALREADY_EXISTS:
                return False
            if error.code() in _HOPELESS:
                raise OperatorRefusedError(error.details()) from error
            return None
        return True

    def log_in(self, username: str, password: str) -> bool:
        """False: try again. Raises OperatorRefusedError."""
        try:
            answer = self._users.Login(
                pb.LoginRequest(username=username, password=password), timeout=LOGIN_SECONDS
            )
        except grpc.RpcError as error:
            if error.code() in _REFUSED:
                raise OperatorRefusedError(error.details()) from error
            return False
        if not answer.success:
            raise OperatorRefusedError(answer.message)
        self._token = answer.token
        return True

    def online_nodes(self) -> dict[str, pb.WorkerNodeInfo]:
        """The nodes that are online; none while the gateway is away. Call log_in() first."""
        metadata = (("authorization", f"Bearer {self._token}"),)
        try:
            answer = self._nodes.GetNodeList(pb.GetNodeListRequest(), metadata=metadata, timeout=CALL_SECONDS)
        except grpc.RpcError:
            return {}
        return {node.node_id: node for node in answer.nodes if node.status == ONLINE}

    def close(self) -> None:
        self._channel.close()
