"""What can go wrong with a function that runs on a node, beside the function's own exceptions."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor

from hivemind.errors import BadResultError, ClientError
from hivemind.models import TaskInfo


class TaskFailedError(ClientError):
    """The task did not succeed."""

    code = "task_failed"

    def __init__(
        self, message: str | None = None, *, hint: str | None = None, task: TaskInfo | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.task = task


class RemoteError(TaskFailedError):
    """The function ended with an exception, or a result, that cannot be sent back as an object."""

    code = "remote_error"

    def __init__(
        self,
        message: str | None = None,
        *,
        hint: str | None = None,
        task: TaskInfo | None = None,
        traceback: str = "",
    ) -> None:
        super().__init__(message, hint=hint, task=task)
        self.traceback = traceback


class OtherPythonError(TaskFailedError):
    """The node, or whoever sent the function, has another version of Python."""

    code = "other_python"


class NotAgreedError(BadResultError):
    """The result is not one that enough runs agreed on, so it is not unpickled."""

    code = "not_agreed"


class WorkerSetupError(TaskFailedError, BrokenExecutor):
    """The executor's initializer failed on a node: the executor takes no more work."""

    code = "worker_setup"


class ExecutorClosedError(ClientError, RuntimeError):
    """The executor takes no more calls after its shutdown."""

    code = "executor_closed"


class RemoteTraceback(Exception):  # noqa: N818  the name that concurrent.futures has for it
    """The traceback on the node, as the cause of an exception that came from there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'
