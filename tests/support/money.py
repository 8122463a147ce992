"""Accounts with CPT in them, tasks that hold some, and what must be true of the ledger at any time."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, func, select

from nodepool.domain.money import ledger
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.tables import holds, ledger_accounts
from tests.support.stores import add_task, add_user

PRICE = 3


def add_payer(connection: Connection, name: str = "owner", *, grant: int = 1000, **columns: Any) -> int:
    """A user with an account and so many CPT."""
    user_id = add_user(connection, name, **columns)
    ledger_store.open_account(connection, user_id, grant=grant, now=0.0)
    return user_id


def add_held_task(
    connection: Connection, owner_id: int, task_id: str = "", *, fee_percent: int = 0, **columns: Any
) -> str:
    """A task and its hold, as a submit stores them."""
    columns = {"price_per_minute": PRICE, "max_minutes": 10, **columns}
    task_id = add_task(connection, owner_id, task_id, **columns)
    task = {**columns, "id": task_id, "owner_id": owner_id}
    ledger_store.hold(connection, task, fee_percent=fee_percent, now=columns.get("created_at", 0.0))
    return task_id


def add_deferring_task(
    connection: Connection, owner_id: int, task_id: str = "", *, fee_percent: int = 0, **columns: Any
) -> str:
    """A task that holds its price when it is first placed."""
    columns = {"price_per_minute": PRICE, "max_minutes": 10, **columns}
    return add_task(connection, owner_id, task_id, holds_when_placed=True, fee_percent=fee_percent, **columns)


def spendable(connection: Connection, user_id: int) -> int:
    return ledger_store.balance(connection, user_id)[0]


def account(connection: Connection, account_id: str) -> int:
    query = select(ledger_accounts.c.balance).where(ledger_accounts.c.id == account_id)
    return int(connection.execute(query).scalar_one())


def hold_of(connection: Connection, task_id: str) -> Row[Any]:
    return connection.execute(select(holds).where(holds.c.task_id == task_id)).one()


def check_sums(connection: Connection) -> None:
    """Nothing was made or lost, nobody owes, and the escrow has what is held."""
    total, lowest = connection.execute(
        select(
            func.sum(ledger_accounts.c.balance),
            func.min(ledger_accounts.c.balance).filter(ledger_accounts.c.id != ledger.MINT),
        )
    ).one()
    assert total == 0
    assert lowest >= 0
    held = select(func.coalesce(func.sum(holds.c.amount - holds.c.posted), 0)).where(
        holds.c.state == ledger.HoldState.HELD
    )
    assert connection.execute(held).scalar_one() == account(connection, ledger.ESCROW)
