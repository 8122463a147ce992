"""Who may call what: every RPC and the role it needs. An RPC that is not here is refused.

Names only: `gateway/servicers/interceptors.py` asks this file, and a test compares it with the protocol.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from nodepool.protocol import nodepool_pb2 as pb

PACKAGE = "nodepool"
ADMIN_ROLE = "admin"


class Access(StrEnum):
    PUBLIC = "public"  # with or without a token, valid or not
    ANONYMOUS_READ = "anonymous read"  # a user, or nobody where ALLOW_ANONYMOUS_READS is set
    USER = "user"
    ADMIN = "admin"


_BY_SERVICE: dict[str, dict[Access, tuple[str, ...]]] = {
    "nodepool.UserService": {
        Access.PUBLIC: ("Login", "Register"),
        Access.USER: (
            "Transfer",
            "GetBalance",
            "RefreshToken",
            "ChangePassword",
            "GetStatement",
            "GetCredit",
            "SetSecret",
            "ListSecrets",
            "RemoveSecret",
            "SetNotifyTarget",
            "ListNotifyTargets",
            "RemoveNotifyTarget",
            "TestNotifyTarget",
            "ConfirmNotifyTarget",
        ),
    },
    "nodepool.NodeManagerService": {
        Access.PUBLIC: ("HealthCheck",),
        Access.ANONYMOUS_READ: ("GetNodeList",),
        Access.USER: (
            "RegisterWorkerNode",
            "ReportStatus",
            "EnrollAgent",
            "ReportAgent",
            "SetNodeDraining",
            "DeregisterNode",
            "ClaimAttempt",
            "FetchInput",
            "AppendOutput",
            "FinishAttempt",
        ),
    },
    "nodepool.MasterNodeService": {
        Access.ANONYMOUS_READ: ("PollTaskStatus",),
        Access.USER: (
            "UploadTask",
            "UploadTaskStream",
            "StoreOutput",
            "StoreResult",
            "GetTaskResult",
            "ReturnTaskResult",
            "TaskCompleted",
            "StoreLogs",
            "GetTaskLogs",
            "GetAllTasks",
            "StopTask",
            "DeleteTask",
            "DownloadResult",
            "WatchTask",
            "ExplainTask",
            "SubmitArray",
            "SubmitFlow",
            "GetJob",
            "ListJobs",
            "ListJobTasks",
            "StopJob",
            "ResubmitTask",
            "ResubmitJob",
            "ListTasks",
            "ResolveIds",
            "WatchTasks",
        ),
    },
    "nodepool.WorkerNodeService": {
        Access.USER: ("ExecuteTask", "ReportOutput", "ReportRunningStatus", "StopTaskExecution"),
    },
    "nodepool.AdminService": {
        Access.ADMIN: (
            "Mint",
            "SetCreditScore",
            "SetUserBlocked",
            "ListUsers",
            "ReversePayment",
            "ListAdminActs",
            "GetDiskUse",
            "ListUserTasks",
            "ShowUserTask",
            "ExplainUserTask",
            "GetUserTaskLogs",
            "StopUserTask",
        ),
    },
    "grpc.health.v1.Health": {Access.PUBLIC: ("Check", "Watch", "List")},
    "grpc.reflection.v1alpha.ServerReflection": {Access.PUBLIC: ("ServerReflectionInfo",)},
}

REQUIRED: dict[str, Access] = {
    f"/{service}/{name}": access
    for service, by_access in _BY_SERVICE.items()
    for access, names in by_access.items()
    for name in names
}

SERVICES: tuple[str, ...] = tuple(name for name in _BY_SERVICE if name.startswith(f"{PACKAGE}."))

UPLOAD = "/nodepool.MasterNodeService/UploadTask"
LOGIN = "/nodepool.UserService/Login"
# Clients of later generations put the token where others have the user's name.
_TOKEN_FIELDS = {UPLOAD: "user_id"}
_DOTS_OF_A_TOKEN = 2

# What a node without an agent says of itself and of its run.
NODE_WORDS: frozenset[str] = frozenset(
    f"/nodepool.{service}/{name}"
    for service, names in (
        ("NodeManagerService", ("ReportStatus",)),
        (
            "MasterNodeService",
            ("StoreOutput", "StoreLogs", "StoreResult", "ReturnTaskResult", "TaskCompleted"),
        ),
        ("WorkerNodeService", ("ReportOutput", "ReportRunningStatus")),
    )
    for name in names
)

# Unary calls whose request has a field for the token.
TOKEN_IN_MESSAGE: frozenset[str] = frozenset(
    f"/{service.full_name}/{method.name}"
    for service in pb.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if not method.client_streaming and "token" in method.input_type.fields_by_name
) | frozenset(_TOKEN_FIELDS)


def token_in_message(method: str, request: Any, in_metadata: str) -> str:
    """The token that the message carries; "" where there is none. `in_metadata`: the one that came there."""
    field = _TOKEN_FIELDS.get(method)
    if field is None:
        token: str = request.token
        return token
    text: str = getattr(request, field)
    # Else it is a name, which may look like a token: the one in the metadata is the caller's word.
    return text if not in_metadata and text.count(".") == _DOTS_OF_A_TOKEN else ""
