"""People and their CPT: register, log in, refresh, transfer, balance. Use cases, with no gRPC in them.

bcrypt never runs inside a transaction: on SQLite all other writes would wait for it.
"""

from __future__ import annotations

import secrets
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import bcrypt
from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from gateway.tokens import Identity, IssuedToken
from nodepool import ledger, observability
from nodepool.credentials import MAX_PASSWORD_BYTES, check_password, check_username
from nodepool.errors import (
    AlreadyExistsError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from nodepool.ledger import EntryKind, NewEntry
from nodepool.stores import ledger_store
from nodepool.stores.tables import users

if TYPE_CHECKING:
    from gateway.context import Gateway

USER_ROLE = "user"


class _User(NamedTuple):
    identity: Identity
    password_hash: str


def register(gateway: Gateway, username: str, password: str) -> None:
    """Makes a user with an account. InvalidInputError, AlreadyExistsError."""
    check_username(username)
    check_password(password)
    taken = AlreadyExistsError(f"the name {username} is taken; choose another")
    if gateway.database.read(lambda connection: _find_user(connection, username)):
        raise taken
    rounds = gateway.settings.bcrypt_rounds
    password_hash = bcrypt.hashpw(password.encode(), bcrypt.gensalt(rounds)).decode()
    newcomer = {
        "username": username,
        "password_hash": password_hash,
        "role": USER_ROLE,
        "credit_score": gateway.settings.newcomer_credit_score,
        "created_at": gateway.clock(),
    }
    now, grant = gateway.clock(), gateway.settings.newcomer_balance_cpt

    def work(connection: Connection) -> None:
        user_id = connection.execute(insert(users).values(newcomer).returning(users.c.id)).scalar_one()
        ledger_store.open_account(connection, user_id, grant=grant, now=now)

    try:
        gateway.database.write(work)
    except IntegrityError:
        raise taken from None


def login(gateway: Gateway, username: str, password: str) -> IssuedToken | None:
    """A token, or None for a wrong name or password, which take the same time."""
    try:
        check_username(username)
    except InvalidInputError:
        user = None
    else:
        user = gateway.database.read(lambda connection: _find_user(connection, username))
    password_hash = user.password_hash if user else dummy_hash(gateway.settings.bcrypt_rounds)
    matches = _matches(password, password_hash)
    if user is None or not matches:
        observability.logins.labels("refused").inc()
        return None
    observability.logins.labels("accepted").inc()
    return gateway.tokens.issue(user.identity)


def refresh(gateway: Gateway, identity: Identity) -> IssuedToken:
    """A new token with a full lifetime. UnauthenticatedError where the user is not there any more."""
    user = gateway.database.read(lambda connection: _find_user(connection, identity.username))
    if user is None or user.identity.user_id != identity.user_id:
        raise UnauthenticatedError("this user does not exist any more: register again")
    return gateway.tokens.issue(user.identity)


def balance(gateway: Gateway, identity: Identity, username: str) -> int:
    """The CPT of the caller's own account. PermissionDeniedError for another's."""
    if username not in ("", identity.username):
        raise PermissionDeniedError("you can see your own balance only")
    return gateway.database.read(lambda connection: ledger_store.balance(connection, identity.user_id))[0]


def transfer(gateway: Gateway, sender: Identity, receiver_name: str, amount_cpt: int) -> None:
    """Moves CPT, all or nothing. InvalidInputError, NotFoundError, NotEnoughCptError."""
    ledger.check_amount(amount_cpt)
    if receiver_name == sender.username:
        raise InvalidInputError("you cannot transfer CPT to yourself")
    unknown = NotFoundError("there is no user of the receiver's name")
    now, client_id = gateway.clock(), secrets.token_hex(16)
    try:
        check_username(receiver_name)
    except InvalidInputError:
        raise unknown from None

    def work(connection: Connection) -> None:
        receiver = _find_user(connection, receiver_name)
        if receiver is None:
            raise unknown
        movement = NewEntry(
            ledger.transfer_id(sender.user_id, client_id),
            EntryKind.TRANSFER,
            ledger.user_account(sender.user_id),
            ledger.user_account(receiver.identity.user_id),
            amount_cpt,
        )
        ledger_store.move(connection, [movement], now)

    gateway.database.write(work)


def _find_user(connection: Connection, username: str) -> _User | None:
    row = connection.execute(
        select(users.c.id, users.c.username, users.c.role, users.c.password_hash).where(
            users.c.username == username
        )
    ).one_or_none()
    return _User(Identity(row.id, row.username, row.role), row.password_hash) if row else None


def _matches(password: str, password_hash: str) -> bool:
    given = password.encode()
    # bcrypt refuses what no registration accepts; those take as long as the others.
    usable = len(given) <= MAX_PASSWORD_BYTES and b"\0" not in given
    matches = bcrypt.checkpw(given if usable else b"not usable", password_hash.encode())
    return matches and usable


@lru_cache(maxsize=4)
def dummy_hash(rounds: int) -> str:
    """What the password for an unknown name is compared with, so that it takes as long as for a known one."""
    return bcrypt.hashpw(b"nobody's password", bcrypt.gensalt(rounds)).decode()
