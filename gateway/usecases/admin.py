"""What operators do: mint, set scores, block, list, reverse. Every act and its record are one transaction."""

from __future__ import annotations

import logging
from collections.abc import Callable

from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from gateway.messages import page_size
from gateway.usecases import nodes, tasks
from nodepool.domain import ids
from nodepool.domain.errors import InvalidInputError, NodePoolError, NotFoundError, StateConflictError
from nodepool.domain.money import ledger
from nodepool.domain.money.ledger import AccountKind, EntryKind, NewEntry
from nodepool.domain.safe_text import is_plain
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql import (
    admin as admin_store,
    credit as credit_store,
    nodes as node_store,
    users as user_store,
)
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.ledger import api as ledger_store, statements as ledger_statement
from nodepool.stores.sql.users import User

log = logging.getLogger(__name__)

_USERS, _MOST_USERS = 100, 1000
_ACTS, _MOST_ACTS = 50, 500
_MAX_REASON = 500


def mint(gateway: Gateway, admin: CallerIdentity, request: pb.MintRequest) -> str:
    """New CPT into a user's account; the same mint_id again changes nothing."""
    ledger.check_amount(request.amount)
    memo = check_reason(request.memo, needed=False)
    mint_id = ids.check_movement_id(request.mint_id, "mint_id")
    now = gateway.clock()

    def work(connection: Connection) -> bool:
        user = find_user(connection, request.username)
        entry = NewEntry(
            ledger.mint_id(mint_id),
            EntryKind.GRANT,
            AccountKind.MINT,
            ledger.user_account(user.id),
            request.amount,
            "",
            memo,
        )
        if not ledger_store.move(connection, [entry], now):
            return False
        detail = {"amount": request.amount, "mint_id": mint_id, "memo": memo}
        admin_store.record(connection, admin.username, "mint", user.username, detail, now)
        return True

    if gateway.database.write(work):
        return f"{request.amount} CPT minted for {request.username}"
    return f"this mint was made before; nothing was changed for {request.username}"


def set_score(gateway: Gateway, admin: CallerIdentity, request: pb.SetCreditScoreRequest) -> str:
    reason = check_reason(request.reason)
    now, start = gateway.clock(), gateway.settings.newcomer_credit_score

    def work(connection: Connection) -> tuple[User, frozenset[int]]:
        user = find_user(connection, request.username)
        # The record's own moment names the act: setting the same score twice is two acts.
        changed = credit_store.set_score(
            connection, user.id, request.score, act=f"{user.id}:{now!r}", reason=reason, start=start, now=now
        )
        detail = {"score": request.score, "reason": reason}
        admin_store.record(connection, admin.username, "set-score", user.username, detail, now)
        return user, changed

    user, changed = gateway.database.write(work)
    if changed:
        _after(f"the nodes of {user.username}", lambda: gateway.lifecycle.sync_nodes_of(user.id))
    return f"the credit score of {user.username} is {request.score} now"


def set_blocked(gateway: Gateway, admin: CallerIdentity, request: pb.SetUserBlockedRequest) -> str:
    """Blocking ends tokens, tasks and the work of the user's nodes; unblocking brings back none of these."""
    reason = check_reason(request.reason, needed=request.blocked)
    if request.username == admin.username:
        raise InvalidInputError("you cannot block yourself")
    now = gateway.clock()
    again: list[User] = []

    def work(connection: Connection) -> User:
        user = find_user(connection, request.username)
        if not admin_store.set_blocked(connection, user.id, blocked=request.blocked):
            word = "blocked" if request.blocked else "not blocked"
            again.append(user)
            raise StateConflictError(f"{user.username} is {word} already; nothing was changed")
        action = "block" if request.blocked else "unblock"
        admin_store.record(connection, admin.username, action, user.username, {"reason": reason}, now)
        return user

    try:
        user = gateway.database.write(work)
    except StateConflictError:
        if request.blocked and again:
            # The gateway that blocked may have died before the rest was ended.
            _end_everything(gateway, again[0])
        raise
    gateway.standings.forget(user.id)
    if request.blocked:
        _end_everything(gateway, user)
        return f"{user.username} is blocked: tokens have ended, tasks are being stopped, nodes get no work"
    return f"{user.username} may log in again; nodes join by starting their agents"


def _end_everything(gateway: Gateway, user: User) -> None:
    """What of this fails is told in the log: the block itself stands."""
    identity = CallerIdentity(user.id, user.username, user.role)
    for task_id in gateway.database.read(lambda c: admin_store.unfinished_of(c, user.id)):
        _after(f"task {task_id}", lambda task_id=task_id: _stop(gateway, task_id))  # type: ignore[misc]
    for row in gateway.database.read(lambda c: node_store.active_of(c, user.id)):
        _after(f"node {row.id}", lambda row=row: nodes.deregister(gateway, identity, row.id))  # type: ignore[misc]


def _stop(gateway: Gateway, task_id: str) -> None:
    """As an operator, and so it is told."""
    tasks.stop_found(gateway, task_id, lambda c: admin_store.mark_stopped(c, task_id))


def _after(what: str, act: Callable[[], object]) -> None:
    try:
        act()
    except NodePoolError as error:
        log.warning("%s is left as it is: %s", what, error)


def list_users(gateway: Gateway, request: pb.ListUsersRequest) -> pb.ListUsersResponse:
    size = page_size(request.page_size, default=_USERS, most=_MOST_USERS)
    rows = gateway.database.read(
        lambda c: admin_store.page_of_users(c, size + 1, request.after_username, request.name_contains)
    )
    page = rows[:size]
    return pb.ListUsersResponse(
        users=[
            pb.UserRecord(
                username=row.username,
                role=row.role,
                credit_score=row.credit_score,
                balance=row.balance,
                held=row.held,
                blocked=row.blocked,
                created_at=row.created_at,
                nodes=row.nodes,
                unfinished_tasks=row.unfinished_tasks,
            )
            for row in page
        ],
        next_after_username=page[-1].username if len(rows) > size else "",
    )


def reverse(gateway: Gateway, admin: CallerIdentity, request: pb.ReversePaymentRequest) -> str:
    """Counter-entries; a payment that was reversed before stays so."""
    reason = check_reason(request.reason)
    now = gateway.clock()

    def work(connection: Connection) -> int:
        moved = ledger_statement.reverse(connection, request.entry_id, now, memo=reason)
        if moved:
            detail = {"reason": reason, "entries": [entry.id for entry in moved]}
            admin_store.record(connection, admin.username, "reverse", request.entry_id, detail, now)
        return sum(entry.amount for entry in moved)

    amount = gateway.database.write(work)
    return f"{amount} CPT went back" if amount else "it was reversed before; nothing was changed"


def list_acts(gateway: Gateway, request: pb.ListAdminActsRequest) -> pb.ListAdminActsResponse:
    size = page_size(request.page_size, default=_ACTS, most=_MOST_ACTS)
    rows = gateway.database.read(lambda c: admin_store.acts(c, size + 1, request.before_seq))
    page = rows[:size]
    return pb.ListAdminActsResponse(
        acts=[
            pb.AdminAct(
                seq=row.seq,
                at=row.created_at,
                admin=row.admin,
                action=row.action,
                subject=row.subject,
                detail=row.detail,
            )
            for row in page
        ],
        next_before_seq=page[-1].seq if len(rows) > size else 0,
    )


def find_user(connection: Connection, username: str) -> User:
    """Raises NotFoundError."""
    user = user_store.by_name(connection, username)
    if user is None:
        raise NotFoundError(f"there is no user {username[:100]!r}")
    return user


def check_reason(text: str, *, needed: bool = True) -> str:
    """Without blanks around it. Raises InvalidInputError."""
    reason = text.strip()
    if needed and not reason:
        raise InvalidInputError("say why: the reason is kept with the act")
    if len(reason) > _MAX_REASON or not is_plain(reason):
        raise InvalidInputError(f"the reason must be at most {_MAX_REASON} printable characters")
    return reason
