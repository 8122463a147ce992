"""The client of a HiveMind node pool: `connect()` for programs, `NodePoolClient` for each call of the
protocol, what they answer with, and their errors.

Names are loaded when they are asked for, so that `hivemind --help` does not pay for gRPC.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hivemind.admin import AdminAct, Operator, UserRecord
    from hivemind.array_upload import ArraySubmission
    from hivemind.channel import Endpoint, RetryPolicy
    from hivemind.connecting import connect, connect_async
    from hivemind.errors import (
        BadResultError,
        ClientError,
        ConfigError,
        ConflictError,
        ExistsError,
        InvalidInputError,
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
    from hivemind.explanation import Explanation, FailedClause, Suggestion
    from hivemind.flow_upload import FlowSubmission
    from hivemind.flows import FlowStep, TaskFlow, read_flow
    from hivemind.functions.errors import (
        ExecutorClosedError,
        NotAgreedError,
        OtherPythonError,
        RemoteError,
        RemoteTraceback,
        TaskFailedError,
        WorkerSetupError,
    )
    from hivemind.functions.outcome import ResultFile
    from hivemind.jobs import JobInfo, ReasonGroup, StepInfo
    from hivemind.models import (
        AttemptInfo,
        Identity,
        OutputEvent,
        ResultInfo,
        StateEvent,
        Submission,
        TaskEvent,
        TaskInfo,
        exit_code_of,
    )
    from hivemind.money import Balance, Credit, CreditChange, Statement, StatementLine, Transferred
    from hivemind.needs import TaskNeeds
    from hivemind.nodes import NodeInfo
    from hivemind.notify_targets import NotifyTarget, NotifyTargetSet
    from hivemind.pools.aio import AsyncJob, AsyncPool, AsyncTask
    from hivemind.pools.executor import PoolExecutor
    from hivemind.pools.futures import PoolFuture
    from hivemind.pools.pool import Pool
    from hivemind.pools.sync import Job, Task
    from hivemind.resubmitting import Resubmission
    from hivemind.sdk import NodePoolClient
    from hivemind.secret_methods import SecretInfo, SecretRemoved
    from hivemind.selectors import NamedIds
    from hivemind.sweeps import Sweep
    from hivemind.told import NotificationInfo
    from hivemind.watching import Position
    from nodepool.domain.tasks.states import TaskState

__all__ = [
    "AdminAct",
    "ArraySubmission",
    "AsyncJob",
    "AsyncPool",
    "AsyncTask",
    "AttemptInfo",
    "BadResultError",
    "Balance",
    "ClientError",
    "ConfigError",
    "ConflictError",
    "Credit",
    "CreditChange",
    "Endpoint",
    "ExecutorClosedError",
    "ExistsError",
    "Explanation",
    "FailedClause",
    "FlowStep",
    "FlowSubmission",
    "Identity",
    "InvalidInputError",
    "Job",
    "JobInfo",
    "LimitError",
    "MissingError",
    "NamedIds",
    "NodeInfo",
    "NodePoolClient",
    "NotAgreedError",
    "NotAllowedError",
    "NotLoggedInError",
    "NotYetError",
    "NotificationInfo",
    "NotifyTarget",
    "NotifyTargetSet",
    "Operator",
    "OtherPythonError",
    "OutputEvent",
    "PlainTextError",
    "Pool",
    "PoolExecutor",
    "PoolFuture",
    "Position",
    "ReasonGroup",
    "RefusedError",
    "RemoteError",
    "RemoteTraceback",
    "Resubmission",
    "ResultFile",
    "ResultInfo",
    "RetryPolicy",
    "SecretInfo",
    "SecretRemoved",
    "StateEvent",
    "Statement",
    "StatementLine",
    "StepInfo",
    "Submission",
    "Suggestion",
    "Sweep",
    "Task",
    "TaskEvent",
    "TaskFailedError",
    "TaskFlow",
    "TaskInfo",
    "TaskNeeds",
    "TaskState",
    "TimedOutError",
    "Transferred",
    "UnreachableError",
    "UnsupportedError",
    "UserRecord",
    "WorkerSetupError",
    "connect",
    "connect_async",
    "exit_code_of",
    "read_flow",
]

_HOME_OF = {
    "connect": "hivemind.connecting",
    "connect_async": "hivemind.connecting",
    "Pool": "hivemind.pools.pool",
    "Task": "hivemind.pools.sync",
    "Job": "hivemind.pools.sync",
    "AsyncPool": "hivemind.pools.aio",
    "AsyncTask": "hivemind.pools.aio",
    "AsyncJob": "hivemind.pools.aio",
    "PoolExecutor": "hivemind.pools.executor",
    "PoolFuture": "hivemind.pools.futures",
    "ResultFile": "hivemind.functions.outcome",
    "ExecutorClosedError": "hivemind.functions.errors",
    "NotAgreedError": "hivemind.functions.errors",
    "OtherPythonError": "hivemind.functions.errors",
    "RemoteError": "hivemind.functions.errors",
    "RemoteTraceback": "hivemind.functions.errors",
    "TaskFailedError": "hivemind.functions.errors",
    "WorkerSetupError": "hivemind.functions.errors",
    "ArraySubmission": "hivemind.array_upload",
    "JobInfo": "hivemind.jobs",
    "ReasonGroup": "hivemind.jobs",
    "NotificationInfo": "hivemind.told",
    "NotifyTarget": "hivemind.notify_targets",
    "NotifyTargetSet": "hivemind.notify_targets",
    "SecretInfo": "hivemind.secret_methods",
    "SecretRemoved": "hivemind.secret_methods",
    "NamedIds": "hivemind.selectors",
    "StepInfo": "hivemind.jobs",
    "TaskFlow": "hivemind.flows",
    "FlowStep": "hivemind.flows",
    "read_flow": "hivemind.flows",
    "FlowSubmission": "hivemind.flow_upload",
    "Sweep": "hivemind.sweeps",
    "Resubmission": "hivemind.resubmitting",
    "Endpoint": "hivemind.channel",
    "RetryPolicy": "hivemind.channel",
    "NodePoolClient": "hivemind.sdk",
    "Position": "hivemind.watching",
    "TaskState": "nodepool.domain.tasks.states",
    "Explanation": "hivemind.explanation",
    "FailedClause": "hivemind.explanation",
    "Suggestion": "hivemind.explanation",
    "NodeInfo": "hivemind.nodes",
    "Balance": "hivemind.money",
    "Credit": "hivemind.money",
    "CreditChange": "hivemind.money",
    "Statement": "hivemind.money",
    "StatementLine": "hivemind.money",
    "Transferred": "hivemind.money",
    "AdminAct": "hivemind.admin",
    "Operator": "hivemind.admin",
    "UserRecord": "hivemind.admin",
    "AttemptInfo": "hivemind.models",
    "Identity": "hivemind.models",
    "OutputEvent": "hivemind.models",
    "ResultInfo": "hivemind.models",
    "StateEvent": "hivemind.models",
    "Submission": "hivemind.models",
    "TaskEvent": "hivemind.models",
    "TaskInfo": "hivemind.models",
    "TaskNeeds": "hivemind.needs",
    "exit_code_of": "hivemind.models",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# Type checkers see the names above and no others: for them this would make every name one of the package's.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOME_OF.get(name, "hivemind.errors")), name)
