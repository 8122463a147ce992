"""What moved on the caller's account and on the caller's credit score, a page at a time, newest first."""

from __future__ import annotations

from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from gateway.messages import page_size
from nodepool.domain.errors import InvalidInputError
from nodepool.domain.trust import access_limits, tiers
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql import credit as credit_store, users as user_store
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.ledger import api as ledger_store

DEFAULT_LINES = 50
MOST_LINES = 500


def statement(
    gateway: Gateway, identity: CallerIdentity, request: pb.GetStatementRequest
) -> pb.GetStatementResponse:
    """The newest line's running balance is the balance that is answered with it."""
    limit, before_seq = _page(request.page_size, request.before_seq)

    def work(connection: Connection) -> pb.GetStatementResponse:
        spendable_cpt, held_cpt = ledger_store.balance(connection, identity.user_id)
        page = ledger_store.statement(
            connection, identity.user_id, task_id=request.task_id, before_seq=before_seq, limit=limit
        )
        lines = [
            pb.StatementLine(
                seq=line.seq,
                entry_id=line.entry_id,
                kind=line.kind,
                amount=line.amount,
                balance_after=line.balance_after,
                counterparty=line.counterparty,
                task_id=line.task_id,
                memo=line.memo,
                at=line.at,
            )
            for line in page.lines
        ]
        if lines and not (before_seq or request.task_id):
            # Something may have moved between the two questions.
            spendable_cpt = lines[0].balance_after
        return pb.GetStatementResponse(
            success=True,
            message=f"{len(lines)} lines",
            lines=lines,
            next_before_seq=page.next_before_seq,
            balance=spendable_cpt,
            held=held_cpt,
        )

    return gateway.database.read(work)


def credit(gateway: Gateway, identity: CallerIdentity, request: pb.GetCreditRequest) -> pb.GetCreditResponse:
    limit, before_seq = _page(request.page_size, request.before_seq)

    def work(connection: Connection) -> pb.GetCreditResponse:
        score = user_store.credit_score(connection, identity.user_id)
        # One more tells whether there is another page.
        rows = credit_store.history(connection, identity.user_id, limit + 1, before_seq)
        page = rows[:limit]
        tier = tiers.task_tier(score)
        return pb.GetCreditResponse(
            success=True,
            message=f"credit score {score}: tasks on nodes of up to {tier} trust",
            score=score,
            tier=tier,
            changes=[
                pb.CreditChange(
                    seq=row.seq,
                    delta=row.delta,
                    score_after=row.score_after,
                    reason=row.reason,
                    task_id=row.task_id,
                    node_id=row.node_id,
                    at=row.created_at,
                )
                for row in page
            ],
            next_before_seq=page[-1].seq if len(rows) > limit else 0,
            start_score=gateway.settings.newcomer_credit_score,
            limits=[pb.AccessLimit(name=name, most=most) for name, most in _allowed(gateway, score)],
        )

    return gateway.database.read(work)


def _allowed(gateway: Gateway, score: int) -> list[tuple[str, int]]:
    """What the score allows in this pool, whose own bounds are everybody's."""
    settings = gateway.settings
    of_pool = {
        "unfinished_tasks": settings.max_waiting_tasks_per_user,
        "max_minutes": settings.max_minutes_limit,
        "network": int(settings.allow_task_network),
        "stored_mb": settings.max_stored_mb_per_user,
        "nodes": settings.max_nodes_per_user,
    }
    pairs = access_limits.as_pairs(access_limits.limits_of(score))
    return [(name, min(most, of_pool.get(name, most))) for name, most in pairs]


def _page(size: int, before_seq: int) -> tuple[int, int]:
    """How many lines, and from where on."""
    limit = page_size(size, default=DEFAULT_LINES, most=MOST_LINES)
    if before_seq < 0:
        raise InvalidInputError("before_seq must be next_before_seq of the page before, or 0")
    return limit, before_seq
