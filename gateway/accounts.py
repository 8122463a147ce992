"""People and their CPT: register, log in, refresh, transfer, balance. Use cases, with no gRPC in them.

bcrypt never runs inside a transaction: on SQLite all other writes would wait for it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import bcrypt
from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from gateway.tokens import Identity, IssuedToken
from nodepool import observability
from nodepool.credentials import MAX_PASSWORD_BYTES, check_password, check_username
from nodepool.errors import (
    AlreadyExistsError,
    InvalidInputError,
    NotEnoughCptError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from nodepool.stores.tables import accounts, users

if TYPE_CHECKING:
    from gateway.context import Gateway

MAX_TRANSFER_CPT = 2**62
MAX_BALANCE_CPT = 2**63 - 1
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
    balance = gateway.settings.newcomer_balance_cpt

    def work(connection: Connection) -> None:
        user_id = connection.execute(insert(users).values(newcomer).returning(users.c.id)).scalar_one()
        connection.execute(insert(accounts).values(user_id=user_id, balance=balance))

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
    found = gateway.database.read(
        lambda connection: connection.execute(
            select(accounts.c.balance).where(accounts.c.user_id == identity.user_id)
        ).scalar_one_or_none()
    )
    if found is None:
        raise NotFoundError("you have no account in this pool: register again")
    return int(found)


def transfer(gateway: Gateway, sender: Identity, receiver_name: str, amount_cpt: int) -> None:
    """Moves CPT, all or nothing. InvalidInputError, NotFoundError, NotEnoughCptError."""
    if not 0 < amount_cpt < MAX_TRANSFER_CPT:
        raise InvalidInputError("the amount must be a whole number of CPT above 0 and below 2**62")
    if receiver_name == sender.username:
        raise InvalidInputError("you cannot transfer CPT to yourself")
    unknown = NotFoundError("there is no user of the receiver's name")
    try:
        check_username(receiver_name)
    except InvalidInputError:
        raise unknown from None

    def work(connection: Connection) -> None:
        receiver = _find_user(connection, receiver_name)
        if receiver is None:
            raise unknown
        steps = [(sender.user_id, _debit), (receiver.identity.user_id, _credit)]
        # One order for everybody: two who pay each other at once do not wait for each other for ever.
        for user_id, step in sorted(steps, key=lambda pair: pair[0]):
            step(connection, user_id, amount_cpt)

    gateway.database.write(work)


def _debit(connection: Connection, user_id: int, amount_cpt: int) -> None:
    covered = connection.execute(
        update(accounts)
        .where(accounts.c.user_id == user_id, accounts.c.balance >= amount_cpt)
        .values(balance=accounts.c.balance - amount_cpt)
    )
    if covered.rowcount != 1:
        raise NotEnoughCptError(f"there are not {amount_cpt} CPT in your account; nothing was transferred")


def _credit(connection: Connection, user_id: int, amount_cpt: int) -> None:
    fits = connection.execute(
        update(accounts)
        .where(accounts.c.user_id == user_id, accounts.c.balance <= MAX_BALANCE_CPT - amount_cpt)
        .values(balance=accounts.c.balance + amount_cpt)
    )
    if fits.rowcount != 1:
        raise InvalidInputError("the receiver's account cannot hold that much; nothing was transferred")


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
