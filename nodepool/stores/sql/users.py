"""Users in SQL: who there is, whether they are let in, and what ends their tokens.

Functions of a connection: the use case that calls them owns the transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, bindparam, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from nodepool.domain.accounts.credentials import name_key
from nodepool.domain.errors import AlreadyExistsError, UnauthenticatedError
from nodepool.events.catalogue import PasswordChanged, UserRegistered
from nodepool.stores.sql import restores
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.noted_events import note
from nodepool.stores.sql.tables import ledger_accounts, ledger_entries, users
from nodepool.stores.sql.typed_rows import FromRow, columns

USER_ROLE = "user"
SYSTEM_ROLE = "system"  # of the pool itself; nobody logs in with it

_SCORE = select(users.c.credit_score).where(users.c.id == bindparam("user_id"))


@dataclass(frozen=True, slots=True)
class AccountStatus(FromRow):
    """What is true of a user now, whatever a token says."""

    username: str
    role: str
    blocked: bool
    generation: int


@dataclass(frozen=True, slots=True)
class User(FromRow):
    id: int
    username: str
    role: str
    blocked: bool
    generation: int  # of tokens
    password_hash: str


@dataclass(frozen=True, slots=True)
class UserName(FromRow):
    id: int
    username: str


@dataclass(frozen=True, slots=True)
class NewUser:
    username: str
    password_hash: str
    role: str
    credit_score: int
    grant_cpt: int


_ACCOUNT_STATUS: Select[Any] = select(
    *columns(AccountStatus, users, generation=users.c.token_generation)
).where(users.c.id == bindparam("user_id"))
_USER: Select[Any] = select(*columns(User, users, generation=users.c.token_generation))
_BY_NAME = _USER.where(users.c.username == bindparam("username"))
_BY_ID = _USER.where(users.c.id == bindparam("user_id"))


def account_status(connection: Connection, user_id: int) -> AccountStatus | None:
    return AccountStatus.from_row_or_none(
        connection.execute(_ACCOUNT_STATUS, {"user_id": user_id}).one_or_none()
    )


def credit_score(connection: Connection, user_id: int) -> int:
    """Raises UnauthenticatedError when the user is gone (a token of a database that was replaced)."""
    score: int | None = connection.execute(_SCORE, {"user_id": user_id}).scalar()
    if score is None:
        raise UnauthenticatedError("this account does not exist any more; register or log in again")
    return score


def by_name(connection: Connection, username: str) -> User | None:
    return User.from_row_or_none(connection.execute(_BY_NAME, {"username": username}).one_or_none())


def by_id(connection: Connection, user_id: int) -> User | None:
    return User.from_row_or_none(connection.execute(_BY_ID, {"user_id": user_id}).one_or_none())


def taken_name(connection: Connection, username: str) -> str | None:
    """The name that is there already: this one, or one that people would take for it."""
    either = or_(users.c.username == username, users.c.name_key == name_key(username))
    found = connection.execute(select(users.c.username).where(either)).scalars().all()
    return (username if username in found else found[0]) if found else None


def add(connection: Connection, newcomer: NewUser, now: float) -> int:
    """A user with an account. AlreadyExistsError when the name, or one like it, is there."""
    values = {
        "username": newcomer.username,
        "name_key": name_key(newcomer.username),
        "password_hash": newcomer.password_hash,
        "role": newcomer.role,
        "credit_score": newcomer.credit_score,
        "created_at": now,
        "token_generation": restores.first_generation(connection),
    }
    try:
        user_id = connection.execute(insert(users).values(values).returning(users.c.id)).scalar_one()
    except IntegrityError as error:
        raise AlreadyExistsError(f"the name {newcomer.username} is taken; choose another") from error
    ledger_store.open_account(connection, user_id, grant=newcomer.grant_cpt, now=now)
    note(connection, UserRegistered(user=newcomer.username))
    return int(user_id)


def set_role(connection: Connection, user_id: int, role: str) -> None:
    connection.execute(update(users).where(users.c.id == user_id).values(role=role))


def set_password(connection: Connection, user_id: int, generation: int, password_hash: str) -> int | None:
    """Ends every token too. The new generation; None where another change came between."""
    change = (
        update(users)
        .where(users.c.id == user_id, users.c.token_generation == generation)
        .values(password_hash=password_hash, token_generation=generation + 1)
        .returning(users.c.token_generation, users.c.username)
    )
    changed = connection.execute(change).one_or_none()
    if changed is None:
        return None
    note(connection, PasswordChanged(user=changed.username))
    return int(changed.token_generation)


def end_tokens(connection: Connection, user_id: int) -> None:
    """Every token that was issued so far; gateways notice within a second."""
    connection.execute(
        update(users).where(users.c.id == user_id).values(token_generation=users.c.token_generation + 1)
    )


def without_movements(connection: Connection) -> list[UserName]:
    """People on whose accounts nothing ever moved, by name."""
    moved = select(ledger_entries.c.seq).where(
        or_(
            ledger_entries.c.debit_account == ledger_accounts.c.id,
            ledger_entries.c.credit_account == ledger_accounts.c.id,
        )
    )
    query = (
        select(*columns(UserName, users))
        .join(ledger_accounts, ledger_accounts.c.user_id == users.c.id)
        .where(users.c.role != SYSTEM_ROLE, ~moved.exists())
    )
    return UserName.from_rows(connection.execute(query.order_by(users.c.username)))
