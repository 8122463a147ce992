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
    from client.nodes import NodeInfo
    from client.sdk import NodePoolClient
    from client.watching import Position
    from nodepool.task import TaskState

__all__ = [
    "AttemptInfo",
    "BadResultError",
    "ClientError",
    "ConfigError",
    "ConflictError",
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
    "OutputEvent",
    "PlainTextError",
    "Position",
    "RefusedError",
    "ResultInfo",
    "RetryPolicy",
    "StateEvent",
    "Submission",
    "Suggestion",
    "TaskEvent",
    "TaskInfo",
    "TaskNeeds",
    "TaskState",
    "TimedOutError",
    "UnreachableError",
    "UnsupportedError",
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
