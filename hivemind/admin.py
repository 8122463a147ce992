"""What operators ask of a pool. Every call needs an account with the role admin, and is kept by the pool."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hivemind.channel import GatewayChannel
from hivemind.disk_use import DiskUse, disk_use
from hivemind.errors import ConflictError, MissingError
from hivemind.explanation import Explanation, explanation_from_wire
from hivemind.models import TaskInfo, finite, task_from_list, task_from_poll
from hivemind.task_lists import limited, page_size
from nodepool.domain.tasks.task_filter import TaskFilter
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.wire import filter_to_wire

_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRecord:
    """Amounts in CPT; `held` is not in `balance`."""

    username: str
    role: str
    credit_score: int
    balance: int
    held: int
    blocked: bool
    created_at: float
    nodes: int
    unfinished_tasks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminAct:
    """`detail` is JSON."""

    seq: int
    at: float
    admin: str
    action: str
    subject: str
    detail: str


class Operator:
    """Get it from `NodePoolClient.operator`."""

    def __init__(self, gateway: GatewayChannel) -> None:
        self._gateway = gateway

    def mint(self, username: str, amount_cpt: int, mint_id: str, memo: str = "") -> str:
        """New CPT for a user; the pool makes a mint of one id once. Answers its message."""
        request = pb.MintRequest(username=username, amount=amount_cpt, mint_id=mint_id, memo=memo)
        return self._gateway.call(self._gateway.admin.Mint, request).message

    def set_credit_score(self, username: str, score: int, reason: str) -> str:
        # Sent a second time it sets the same again, and is kept as two acts.
        request = pb.SetCreditScoreRequest(username=username, score=score, reason=reason)
        return self._gateway.call(self._gateway.admin.SetCreditScore, request).message

    def set_blocked(self, username: str, reason: str, *, blocked: bool) -> str:
        request = pb.SetUserBlockedRequest(username=username, blocked=blocked, reason=reason)
        try:
            return self._gateway.call(self._gateway.admin.SetUserBlocked, request).message
        except ConflictError as error:
            if not error.after_unanswered:
                raise
            return f"{username} is {'blocked' if blocked else 'not blocked any more'}"

    def reverse(self, entry_id: str, reason: str) -> str:
        """Counter-entries for a payment, transfer or grant; the same again changes nothing."""
        request = pb.ReversePaymentRequest(entry_id=entry_id, reason=reason)
        return self._gateway.call(self._gateway.admin.ReversePayment, request).message

    def users(self, name_contains: str = "") -> Iterator[UserRecord]:
        """By name, a page at a time."""
        after = ""
        while True:
            request = pb.ListUsersRequest(page_size=_PAGE, after_username=after, name_contains=name_contains)
            answer = self._gateway.call(self._gateway.admin.ListUsers, request)
            for user in answer.users:
                yield UserRecord(
                    username=user.username,
                    role=user.role,
                    credit_score=user.credit_score,
                    balance=user.balance,
                    held=user.held,
                    blocked=user.blocked,
                    created_at=finite(user.created_at),
                    nodes=user.nodes,
                    unfinished_tasks=user.unfinished_tasks,
                )
            if not answer.next_after_username or answer.next_after_username <= after:
                return
            after = answer.next_after_username

    def disk(
        self,
        *,
        result_days: float | None = None,
        log_days: float | None = None,
        task_days: float | None = None,
        users: int = 0,
    ) -> DiskUse:
        """What is kept for whom, and what would go with these settings; None: with the pool's."""
        return disk_use(
            self._gateway, result_days=result_days, log_days=log_days, task_days=task_days, users=users
        )

    def tasks(
        self, wanted: TaskFilter | None = None, *, username: str = "", limit: int = 0
    ) -> Iterator[TaskInfo]:
        """Tasks of one user, or of everybody, newest first; 0: all. Each page is kept as an act."""
        return limited(self._tasks(filter_to_wire(wanted or TaskFilter()), username, limit), limit)

    def _tasks(self, asked: pb.TaskFilter, username: str, limit: int) -> Iterator[TaskInfo]:
        token = ""
        while True:
            request = pb.ListUserTasksRequest(
                filter=asked, username=username, page_size=page_size(limit), page_token=token
            )
            answer = self._gateway.call(self._gateway.admin.ListUserTasks, request)
            yield from map(task_from_list, answer.tasks)
            token = answer.next_page_token
            if not token:
                return

    def task(self, task_id: str) -> TaskInfo:
        """Anybody's task, without what it is given."""
        request = pb.UserTaskRequest(task_id=task_id)
        return task_from_poll(self._gateway.call(self._gateway.admin.ShowUserTask, request))

    def explain(self, task_id: str) -> Explanation:
        """Why anybody's task waits, and what would place it."""
        request = pb.UserTaskRequest(task_id=task_id)
        return explanation_from_wire(
            self._gateway.call(self._gateway.admin.ExplainUserTask, request), task_id
        )

    def logs(self, task_id: str, reason: str) -> str:
        """What anybody's task said, where the pool lets operators read it. Raises NotAllowedError else."""
        request = pb.UserTaskRequest(task_id=task_id, reason=reason)
        answer = self._gateway.call(self._gateway.admin.GetUserTaskLogs, request)
        if not answer.success:
            raise MissingError(answer.message or None)
        return answer.logs

    def stop(self, task_id: str, reason: str) -> str:
        """Stop anybody's task; answers the pool's message."""
        request = pb.UserTaskRequest(task_id=task_id, reason=reason)
        return self._gateway.call(self._gateway.admin.StopUserTask, request).message

    def acts(self, *, limit: int = 50, before_seq: int = 0) -> tuple[AdminAct, ...]:
        """Newest first."""
        request = pb.ListAdminActsRequest(page_size=limit, before_seq=before_seq)
        answer = self._gateway.call(self._gateway.admin.ListAdminActs, request)
        return tuple(
            AdminAct(
                seq=act.seq,
                at=finite(act.at),
                admin=act.admin,
                action=act.action,
                subject=act.subject,
                detail=act.detail,
            )
            for act in answer.acts
        )
