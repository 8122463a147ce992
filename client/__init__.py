"""The client of a HiveMind node pool: `NodePoolClient`, what it answers with, and its errors.

Names are loaded when they are asked for, so that `hivemind --help` does not pay for gRPC.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from client.channel import Endpoint, RetryPolicy
    from client.errors import (
        BadResultError,
        ClientError,
        ConfigError,
        ConflictError,
        ExistsError,
        LimitError,
        MissingError,
        NotAllowedError,
        NotLoggedInError,
        NotYetError,
        PlainTextError,
        RefusedError,
        TimedOutError,
        UnreachableError,
        UnsupportedError,
    )
    from client.explanation import Explanation, FailedClause, Suggestion
    from client.models import (
        AttemptInfo,
        Identity,
        OutputEvent,
        ResultInfo,
        StateEvent,
        Submission,
        TaskEvent,
        TaskInfo,
        TaskNeeds,
        exit_code_of,
    )
    from client.money import Balance, Credit, CreditChange, Statement, StatementLine, Transferred
    from client.nodes import NodeInfo
    from client.operator import AdminAct, Operator, UserRecord
    from client.sdk import NodePoolClient
    from client.watching import Position
    from nodepool.task import TaskState

__all__ = [
    "AdminAct",
    "AttemptInfo",
    "BadResultError",
    "Balance",
    "ClientError",
    "ConfigError",
    "ConflictError",
    "Credit",
    "CreditChange",
    "Endpoint",
    "ExistsError",
    "Explanation",
    "FailedClause",
    "Identity",
    "LimitError",
    "MissingError",
    "NodeInfo",
    "NodePoolClient",
    "NotAllowedError",
    "NotLoggedInError",
    "NotYetError",
    "Operator",
    "OutputEvent",
    "PlainTextError",
    "Position",
    "RefusedError",
    "ResultInfo",
    "RetryPolicy",
    "StateEvent",
    "Statement",
    "StatementLine",
    "Submission",
    "Suggestion",
    "TaskEvent",
    "TaskInfo",
    "TaskNeeds",
    "TaskState",
    "TimedOutError",
    "Transferred",
    "UnreachableError",
    "UnsupportedError",
    "UserRecord",
    "exit_code_of",
]

_HOME_OF = {
    "Endpoint": "client.channel",
    "RetryPolicy": "client.channel",
    "NodePoolClient": "client.sdk",
    "Position": "client.watching",
    "TaskState": "nodepool.task",
    "Explanation": "client.explanation",
    "FailedClause": "client.explanation",
    "Suggestion": "client.explanation",
    "NodeInfo": "client.nodes",
    "Balance": "client.money",
    "Credit": "client.money",
    "CreditChange": "client.money",
    "Statement": "client.money",
    "StatementLine": "client.money",
    "Transferred": "client.money",
    "AdminAct": "client.operator",
    "Operator": "client.operator",
    "UserRecord": "client.operator",
    "AttemptInfo": "client.models",
    "Identity": "client.models",
    "OutputEvent": "client.models",
    "ResultInfo": "client.models",
    "StateEvent": "client.models",
    "Submission": "client.models",
    "TaskEvent": "client.models",
    "TaskInfo": "client.models",
    "TaskNeeds": "client.models",
    "exit_code_of": "client.models",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'client' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF.get(name, "client.errors")), name)
