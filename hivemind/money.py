"""Accounts as the pool shows them: balances, statements, credit; and how they are asked for.

Amounts are whole CPT, times Unix seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hivemind.channel import GatewayChannel
from hivemind.made import made
from hivemind.models import finite
from hivemind.steps import Call, Steps, drive
from nodepool.protocol import nodepool_pb2 as pb

_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """`held` is put aside for tasks that have not ended, and is not in `balance`."""

    balance: int
    held: int
    credit_score: int
    stored_bytes: int = 0  # what the account's tasks keep in the pool: packages and results
    stored_bytes_limit: int = 0  # 0: the pool does not say
    # Days after a task's end that its result, output and record stay; 0: for ever, or an older pool.
    result_days: float = 0.0
    log_days: float = 0.0
    task_days: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    message: str
    transfer_id: str
    balance: int
    repeated: bool  # this very transfer was made before


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementLine:
    """`amount` is negative where CPT went out; `balance_after` is the account's then."""

    seq: int
    entry_id: str
    kind: str
    amount: int
    balance_after: int
    counterparty: str
    task_id: str
    memo: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """Newest first. Ask again with `before_seq=next_before_seq` for what is older, unless it is 0."""

    lines: tuple[StatementLine, ...]
    next_before_seq: int
    balance: int
    held: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditChange:
    seq: int
    delta: int
    score_after: int
    reason: str
    task_id: str
    node_id: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """A user's score, what it opens and allows, and the newest changes of it."""

    score: int
    tier: str
    start_score: int
    limits: dict[str, int]
    changes: tuple[CreditChange, ...]
    next_before_seq: int


def balance(gateway: GatewayChannel, username: str) -> Balance:
    return drive(gateway, balance_steps(username))


def balance_steps(username: str) -> Steps[Balance]:
    answer = yield Call("users", "GetBalance", made(pb.GetBalanceRequest, username=username))
    return Balance(
        balance=answer.balance,
        held=answer.held,
        credit_score=answer.credit_score,
        stored_bytes=answer.stored_bytes,
        stored_bytes_limit=answer.stored_bytes_limit,
        result_days=finite(answer.result_days),
        log_days=finite(answer.log_days),
        task_days=finite(answer.task_days),
    )


def transfer(gateway: GatewayChannel, receiver: str, amount_cpt: int, transfer_id: str) -> Transferred:
    """May be repeated: the pool makes a transfer of one id once."""
    request = made(
        pb.TransferRequest,
        token=gateway.token,
        receiver_username=receiver,
        amount=amount_cpt,
        transfer_id=transfer_id,
    )
    answer = gateway.call(gateway.users.Transfer, request)
    return Transferred(
        message=answer.message,
        transfer_id=transfer_id,
        balance=answer.balance,
        repeated=answer.repeated_transfer,
    )


def statement(gateway: GatewayChannel, *, task_id: str, limit: int, before_seq: int) -> Statement:
    request = made(
        pb.GetStatementRequest, token=gateway.token, task_id=task_id, page_size=limit, before_seq=before_seq
    )
    answer = gateway.call(gateway.users.GetStatement, request)
    return Statement(
        lines=tuple(
            StatementLine(
                seq=line.seq,
                entry_id=line.entry_id,
                kind=line.kind,
                amount=line.amount,
                balance_after=line.balance_after,
                counterparty=line.counterparty,
                task_id=line.task_id,
                memo=line.memo,
                at=finite(line.at),
            )
            for line in answer.lines
        ),
        next_before_seq=answer.next_before_seq,
        balance=answer.balance,
        held=answer.held,
    )


def credit(gateway: GatewayChannel, *, limit: int, before_seq: int) -> Credit:
    request = made(pb.GetCreditRequest, token=gateway.token, page_size=limit, before_seq=before_seq)
    answer = gateway.call(gateway.users.GetCredit, request)
    return Credit(
        score=answer.score,
        tier=answer.tier,
        start_score=answer.start_score,
        limits={limit.name: limit.most for limit in answer.limits},
        changes=tuple(
            CreditChange(
                seq=change.seq,
                delta=change.delta,
                score_after=change.score_after,
                reason=change.reason,
                task_id=change.task_id,
                node_id=change.node_id,
                at=finite(change.at),
            )
            for change in answer.changes
        ),
        next_before_seq=answer.next_before_seq,
    )


def whole_statement(
    page: Callable[..., Statement], *, task_id: str = "", limit: int, before_seq: int = 0
) -> Statement:
    """So many lines (0: all) in as many pages as it takes. `page` is `NodePoolClient.statement`."""
    lines: list[StatementLine] = []
    while True:
        size = _size(limit, len(lines))
        found = page(task_id=task_id, limit=size, before_seq=before_seq)
        lines += found.lines
        before_seq = found.next_before_seq
        if not before_seq or len(found.lines) < size or len(lines) == limit:
            return replace(found, lines=tuple(lines))


def whole_credit(page: Callable[..., Credit], *, limit: int, before_seq: int = 0) -> Credit:
    """So many changes (0: all) in as many pages as it takes. `page` is `NodePoolClient.credit`."""
    changes: list[CreditChange] = []
    while True:
        size = _size(limit, len(changes))
        found = page(limit=size, before_seq=before_seq)
        changes += found.changes
        before_seq = found.next_before_seq
        if not before_seq or len(found.changes) < size or len(changes) == limit:
            return replace(found, changes=tuple(changes))


def _size(limit: int, have: int) -> int:
    return min(_PAGE, limit - have) if limit else _PAGE
