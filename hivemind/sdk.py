"""The client of a pool for Python programs.

    with NodePoolClient("localhost:50051") as pool:
        pool.login("alice", password)
        task = pool.submit("my_task/", TaskNeeds(memory_gb=2))
        pool.wait(task.task_id)
        pool.result(task.task_id, "out/", unpack=True)

Every method raises `ClientError` or one of its kinds and nothing else for what the pool, the
network or the input can do wrong. Knows no profile, no terminal and no environment.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

from hivemind import downloading, money, watching
from hivemind.admin import Operator
from hivemind.channel import Endpoint, GatewayChannel, RetryPolicy
from hivemind.errors import (
    ClientError,
    ConflictError,
    ExistsError,
    InvalidInputError,
    MissingError,
    NotLoggedInError,
    NotYetError,
    RefusedError,
    UnreachableError,
    UnsupportedError,
)
from hivemind.explanation import Explanation, explanation_from_wire, explanation_of_older_pool
from hivemind.job_methods import JobMethods
from hivemind.list_methods import ListMethods
from hivemind.made import made, path_of
from hivemind.models import (
    Identity,
    ResultInfo,
    Submission,
    TaskEvent,
    TaskInfo,
    task_from_list,
    task_from_poll,
)
from hivemind.money import Balance, Credit, Statement, Transferred
from hivemind.needs import TaskNeeds, needs_to_wire
from hivemind.nodes import NodeInfo, node_from_wire
from hivemind.notify_methods import NotifyMethods
from hivemind.secret_methods import SecretMethods
from hivemind.steps import drive
from hivemind.tokens import read_token
from hivemind.uploading import Progress, new_task_id, silent, upload_task
from hivemind.watching import Position
from hivemind.zip_unpack import MAX_UNPACKED_BYTES
from nodepool.protocol import nodepool_pb2 as pb


class NodePoolClient(ListMethods, JobMethods, SecretMethods, NotifyMethods):
    """A connection to one pool as one user. Safe to use from several threads; close it after use."""

    def __init__(
        self,
        gateway: str | Endpoint,
        *,
        token: str = "",
        retry: RetryPolicy | None = None,
        deadline_seconds: float = 30.0,
        on_wait: Callable[[UnreachableError, float], None] | None = None,
        first_gateway: str = "",
    ) -> None:
        """`gateway` is HOST:PORT in plain text (loopback only), several with commas between, or an Endpoint
        that says more. Where one cannot be reached, calls go on with the next.

        `on_wait` is told once when no gateway can be reached, with the seconds that it is tried for.
        `first_gateway` is the address to begin with, by default chance's choice.
        Nothing is sent yet. Raises PlainTextError or ConfigError.
        """
        endpoint = gateway if isinstance(gateway, Endpoint) else Endpoint(address=gateway)
        self._gateway = GatewayChannel(
            endpoint, token=token, retry=retry, deadline_seconds=deadline_seconds, first=first_gateway
        )
        if on_wait is not None:
            self._gateway.on_wait = on_wait

    def close(self) -> None:
        self._gateway.close()

    def __enter__(self) -> NodePoolClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def token(self) -> str:
        """The token in use, "" before a login. Keep it as you would the password."""
        return self._gateway.token

    @property
    def working_gateway(self) -> str:
        """The address that answered last, when nothing has failed since; else empty."""
        return self._gateway.lines.works

    # -- accounts ---------------------------------------------------------------------------

    def register(self, username: str, password: str) -> None:
        """Make an account. When a try got no answer and the next finds the name taken, the password tells
        whose account it is."""
        request = made(pb.RegisterRequest, username=username, password=password)
        try:
            answer = self._gateway.call(self._gateway.users.Register, request, with_token=False)
        except ExistsError as error:
            if not (error.after_unanswered and self._fits(username, password)):
                raise
        except UnreachableError as error:
            error.hint = f"the account may be there all the same: `hivemind login {username}` tells"
            raise
        else:
            _expect(answer, RefusedError)

    def login(self, username: str, password: str) -> Identity:
        """Get a token and use it from here on. Raises NotLoggedInError for a wrong name or password."""
        request = made(pb.LoginRequest, username=username, password=password)
        # An old token that has expired must not keep anyone from getting a new one.
        answer = self._gateway.call(self._gateway.users.Login, request, with_token=False)
        if not answer.success:
            raise NotLoggedInError(answer.message or "wrong username or password", hint="")
        self._gateway.token = answer.token
        return self.whoami()

    def refresh(self) -> Identity:
        """Change a token that is still valid for a new one with a full lifetime."""
        request = made(pb.RefreshTokenRequest, token=self._need_token())
        answer = self._gateway.call(self._gateway.users.RefreshToken, request)
        _expect(answer, NotLoggedInError)
        self._gateway.token = answer.token
        return self.whoami()

    def whoami(self) -> Identity:
        """Who the token says you are. Asks nobody: the token's text is read and *not* verified."""
        return read_token(self._need_token())

    def change_password(self, old: str, new: str) -> Identity:
        """Every older token of the account ends; a new one is in use from here on. When a try got no answer
        and the next is refused, a login with the new password tells whether it is changed."""
        request = made(pb.ChangePasswordRequest, token=self._need_token(), old_password=old, new_password=new)
        username = self.whoami().username
        try:
            answer = self._gateway.call(self._gateway.users.ChangePassword, request)
        except UnreachableError as error:
            error.hint = "it may be changed all the same: `hivemind login` tells which password counts"
            raise
        except ClientError as error:
            if not error.after_unanswered or (token := self._token_for(username, new)) is None:
                raise
            self._gateway.token = token
            return self.whoami()
        _expect(answer, NotLoggedInError)
        self._gateway.token = answer.token
        return self.whoami()

    def _fits(self, username: str, password: str) -> bool:
        return self._token_for(username, password) is not None

    def _token_for(self, username: str, password: str) -> str | None:
        request = made(pb.LoginRequest, username=username, password=password)
        answer = self._gateway.call(self._gateway.users.Login, request, with_token=False)
        return answer.token if answer.success else None

    def balance(self) -> Balance:
        """Your CPT, what of it tasks hold, and your credit score."""
        self._need_token()
        return money.balance(self._gateway, self.whoami().username)

    def transfer(self, receiver: str, amount_cpt: int, *, transfer_id: str = "") -> Transferred:
        """Give CPT away. The same `transfer_id` again moves nothing more; without one, one is made."""
        if isinstance(amount_cpt, bool) or not isinstance(amount_cpt, int) or amount_cpt <= 0:
            raise InvalidInputError(f"the amount must be 1 CPT or more, not {ascii(amount_cpt)[:60]}")
        self._need_token()
        return money.transfer(self._gateway, receiver, amount_cpt, transfer_id or uuid.uuid4().hex)

    def statement(self, *, task_id: str = "", limit: int = 50, before_seq: int = 0) -> Statement:
        """What moved on your account, newest first; with `task_id` what belongs to that task."""
        self._need_token()
        return money.statement(self._gateway, task_id=task_id, limit=limit, before_seq=before_seq)

    def credit(self, *, limit: int = 50, before_seq: int = 0) -> Credit:
        """Your credit score, what it opens, and why it is what it is."""
        self._need_token()
        return money.credit(self._gateway, limit=limit, before_seq=before_seq)

    @property
    def operator(self) -> Operator:
        """What needs the role admin."""
        self._need_token()
        return Operator(self._gateway)

    # -- tasks ------------------------------------------------------------------------------

    def submit(
        self,
        source: str | Path,
        needs: TaskNeeds | None = None,
        *,
        task_id: str | None = None,
        progress: Progress | None = None,
        include: Sequence[str] = (),
    ) -> Submission:
        """Send a directory, a ZIP or one Python file as a task.

        Without `task_id` one is made. A repeat with the same id and the same bytes changes nothing. `include`
        are patterns (as in .gitignore) of what of a directory is sent although it is left out by default.
        """
        chosen = task_id or new_task_id()
        self._need_token()
        wanted, place = needs or TaskNeeds(), path_of(source, "the path")
        return upload_task(self._gateway, place, chosen, wanted, progress or silent, include)

    def status(self, task_id: str) -> TaskInfo:
        request = made(pb.PollTaskStatusRequest, task_id=task_id)
        return task_from_poll(self._gateway.call(self._gateway.tasks.PollTaskStatus, request))

    def explain(self, task_id: str) -> Explanation:
        """Why a task waits, what would place it now, and what it costs.

        An older pool only has the reason in the task's status: `complete` is false then.
        """
        self._need_token()
        try:
            answer = self._gateway.call(
                self._gateway.tasks.ExplainTask, made(pb.ExplainTaskRequest, task_id=task_id)
            )
        except UnsupportedError:
            return explanation_of_older_pool(self.status(task_id))
        _expect(answer, ClientError)
        return explanation_from_wire(answer, task_id)

    def quote(
        self,
        needs: TaskNeeds | None = None,
        *,
        package_bytes: int = 0,
        package_sha256: str = "",
        unpacked_bytes: int = 0,
        package_files: int = 0,
        tasks: int = 0,
        max_cpt: int = 0,
    ) -> Explanation:
        """Whether and where a task with these needs would run now, and its price; nothing is kept.

        With `package_bytes` and what follows also whether its package would be taken. `tasks`: of an array of
        so many, which may cost `max_cpt` CPT at the most.

        Raises what `submit` raises when the pool would not take it, UnsupportedError at an older pool.
        """
        self._need_token()
        request = made(
            pb.ExplainTaskRequest,
            task=needs_to_wire(needs or TaskNeeds()),
            unpacked_bytes=unpacked_bytes,
            package_entries=package_files,
            tasks=tasks,
            max_cpt=max_cpt,
        )
        request.task.package_bytes, request.task.package_sha256 = package_bytes, package_sha256
        try:
            answer = self._gateway.call(self._gateway.tasks.ExplainTask, request)
        except UnsupportedError:
            raise UnsupportedError(
                "this pool is too old to say where a task would run before it is sent"
            ) from None
        _expect(answer, RefusedError)
        return explanation_from_wire(answer)

    def watch(
        self, task_id: str, position: Position | None = None, *, timeout_seconds: float | None = None
    ) -> Iterator[TaskEvent]:
        """States and output as they come, until the task has ended; goes on by itself after cut connections.

        Keep `position` to go on later from where this watch was left. Raises NotYetError after
        `timeout_seconds`.
        """
        return watching.watch(self._gateway, task_id, position or Position(), timeout_seconds=timeout_seconds)

    def wait(self, task_id: str, *, timeout_seconds: float | None = None) -> TaskInfo:
        """The task when it has ended. Raises NotYetError after `timeout_seconds`."""
        position = Position()
        for _ in self.watch(task_id, position, timeout_seconds=timeout_seconds):
            if position.last is not None and position.last.final:
                return position.last
        raise NotYetError(f"the task {task_id} has not ended")

    def logs(self, task_id: str) -> str:
        """All output that the pool keeps of the task's last attempt."""
        request = made(pb.GetTaskLogsRequest, task_id=task_id, token=self._need_token())
        answer = self._gateway.call(self._gateway.tasks.GetTaskLogs, request)
        _expect(answer, MissingError)
        return answer.logs

    def result(
        self,
        task_id: str,
        destination: str | Path,
        *,
        unpack: bool = False,
        overwrite: bool = False,
        max_unpacked_bytes: int = MAX_UNPACKED_BYTES,
        progress: Progress | None = None,
    ) -> ResultInfo:
        """Fetch the result ZIP to the file `destination`, or unpack it into that directory.

        It was made on a stranger's machine: one that unpacks to more than `max_unpacked_bytes` is refused.
        Nothing is at `destination` before all of it has arrived. Raises NotYetError while the task
        runs, RefusedError when something is there already and `overwrite` is false.
        """
        steps = downloading.fetch_steps(
            task_id,
            path_of(destination, "the destination"),
            unpack_into=unpack,
            overwrite=overwrite,
            max_unpacked_bytes=max_unpacked_bytes,
            progress=progress or silent,
        )
        return drive(self._gateway, steps)

    def stop(self, task_id: str) -> str:
        """Ask that the task be stopped; answers the pool's message."""
        request = made(pb.StopTaskRequest, task_id=task_id, token=self._need_token())
        answer = self._gateway.call(self._gateway.tasks.StopTask, request)
        _expect(answer, ConflictError)
        return answer.message

    def delete(self, task_id: str) -> str:
        """Delete a task that has ended, with its package, result and output; answers the pool's message.

        What it cost stays in the ledger. Raises ConflictError while it has not ended, and MissingError when
        it is gone.
        """
        self._need_token()
        request = made(pb.DeleteTaskRequest, task_id=task_id)
        try:
            answer = self._gateway.call(self._gateway.tasks.DeleteTask, request)
        except MissingError as error:
            if not error.after_unanswered:
                raise
            return f"task {task_id} is deleted"
        _expect(answer, ConflictError)
        return answer.message

    def list(self) -> list[TaskInfo]:
        """Your newest 1,000 tasks; `tasks` has all of them, and those that you are looking for."""
        request = made(pb.GetAllTasksRequest, token=self._need_token())
        answer = self._gateway.call(self._gateway.tasks.GetAllTasks, request)
        _expect(answer, ClientError)
        tasks = (task_from_list(entry) for entry in answer.tasks)
        return sorted(tasks, key=lambda task: (-task.created_at, task.task_id))

    # -- nodes ------------------------------------------------------------------------------

    def nodes(self) -> tuple[NodeInfo, ...]:
        """The pool's nodes, by their ids."""
        answer = self._gateway.call(
            self._gateway.nodes.GetNodeList, made(pb.GetNodeListRequest, include_offline=True)
        )
        _expect(answer, ClientError)
        return tuple(sorted(map(node_from_wire, answer.nodes), key=lambda node: node.node_id))

    def drain(self, node_id: str, *, draining: bool = True) -> str:
        """Give one of your nodes no new work (or work again); answers the pool's message."""
        self._need_token()
        request = made(pb.SetNodeDrainingRequest, node_id=node_id, draining=draining)
        answer = self._gateway.call(self._gateway.nodes.SetNodeDraining, request)
        _expect(answer, ConflictError)
        return answer.message

    # ---------------------------------------------------------------------------------------


class _Answer(Protocol):
    @property
    def success(self) -> bool: ...
    @property
    def message(self) -> str: ...


def _expect(answer: _Answer, kind: type[ClientError]) -> None:
    """For the answers that say no with an OK status."""
    if not answer.success:
        raise kind(answer.message or None)
