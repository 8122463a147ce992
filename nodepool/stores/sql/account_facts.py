"""What accepting a task or a job needs to know of its owner and of its id, in one look."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, func, literal, select

from nodepool.domain.errors import NotFoundError, UnauthenticatedError
from nodepool.domain.money.ledger import user_account
from nodepool.stores.sql.tables import holds, ledger_accounts, storage_accounts, tasks, users
from nodepool.stores.sql.typed_rows import FromRow

_FACTS = (
    select(
        users.c.credit_score,
        ledger_accounts.c.balance,
        func.coalesce(storage_accounts.c.bytes, 0).label("stored_bytes"),
        select(literal(1)).where(tasks.c.id == bindparam("task_id")).exists().label("id_is_taken"),
        select(literal(1)).where(holds.c.task_id == bindparam("task_id")).exists().label("id_was_held"),
    )
    .select_from(users)
    .outerjoin(ledger_accounts, ledger_accounts.c.id == bindparam("account"))
    .outerjoin(storage_accounts, storage_accounts.c.user_id == users.c.id)
    .where(users.c.id == bindparam("user_id"))
)


@dataclass(frozen=True, slots=True)
class AccountFacts(FromRow):
    """`stored_bytes` its tasks keep; `id_was_held`: a task of this id held CPT, and may be removed by now."""

    credit_score: int
    balance: int
    stored_bytes: int
    id_is_taken: bool
    id_was_held: bool


def account_facts(connection: Connection, user_id: int, task_id: str = "") -> AccountFacts:
    """For what is no task, no `task_id`: no task has the empty one.

    Raises UnauthenticatedError and NotFoundError for an account that is not there.
    """
    asked = {"user_id": user_id, "task_id": task_id, "account": user_account(user_id)}
    row = connection.execute(_FACTS, asked).one_or_none()
    if row is None:
        raise UnauthenticatedError("this account does not exist any more; register or log in again")
    if row.balance is None:
        raise NotFoundError("you have no account in this pool: register again")
    return AccountFacts.from_row(row)
