"""The first admin, whom ADMIN_USERNAME names: made, or given the role, when the gateway starts.

Nobody becomes one over the wire.
"""

from __future__ import annotations

from gateway.auth import passwords
from gateway.auth.access import ADMIN_ROLE
from gateway.context import Gateway
from nodepool.domain.accounts.credentials import check_password, check_username
from nodepool.domain.errors import AlreadyExistsError, InvalidInputError, StateConflictError
from nodepool.events.catalogue import AdminActed
from nodepool.stores.sql import restores, users as user_store
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.noted_events import note
from nodepool.stores.sql.users import NewUser, User


def ensure(gateway: Gateway) -> None:
    """Raises InvalidInputError or ConflictError, whose message says which setting to change."""
    username = gateway.settings.admin_username
    if not username:
        return
    try:
        check_username(username)
    except InvalidInputError as error:
        raise InvalidInputError(f"ADMIN_USERNAME: {error}") from None
    if _find(gateway, username) is None:
        _make(gateway, username)
    else:
        _take(gateway, username)


def _make(gateway: Gateway, username: str) -> None:
    settings, now = gateway.settings, gateway.clock()
    try:
        check_password(settings.admin_password)
    except InvalidInputError as error:
        raise InvalidInputError(f"ADMIN_PASSWORD: {error}") from None
    admin = NewUser(
        username,
        passwords.hashed(settings.admin_password, settings.bcrypt_rounds),
        ADMIN_ROLE,
        settings.newcomer_credit_score,
        settings.newcomer_balance_cpt,
    )
    try:
        gateway.database.write(lambda connection: _add(connection, admin, now))
    except AlreadyExistsError:
        # Another gateway may have started at the same moment, and have made the same.
        _take(gateway, username)


def _take(gateway: Gateway, username: str) -> None:
    user = _find(gateway, username)
    if user is None or user.role == user_store.SYSTEM_ROLE:
        raise StateConflictError(
            f"ADMIN_USERNAME: the name {username} is too much like one that is taken; choose another"
        )
    if user.role != ADMIN_ROLE:
        _promote(gateway, user)


def _promote(gateway: Gateway, user: User) -> None:
    """A stranger may have had the name before it was set, so a password that is set must be the account's."""
    settings = gateway.settings
    given = settings.admin_password
    if given and not passwords.matches(given, user.password_hash, settings.bcrypt_rounds):
        raise StateConflictError(
            f"ADMIN_USERNAME: {user.username} is there with another password, and so may be somebody else; "
            "choose another name, or empty ADMIN_PASSWORD to make that account an admin all the same"
        )
    gateway.database.write(lambda connection: _set_admin(connection, user))


def _add(connection: Connection, admin: NewUser, now: float) -> None:
    user_store.add(connection, admin, now)
    note(connection, _made(admin.username))


def _set_admin(connection: Connection, user: User) -> None:
    user_store.set_role(connection, user.id, ADMIN_ROLE)
    note(connection, _made(user.username))


def _made(username: str) -> AdminActed:
    """The host's, by its settings."""
    return AdminActed(admin=restores.HOST, act="make-admin", subject=username, detail="")


def _find(gateway: Gateway, username: str) -> User | None:
    return gateway.database.read(lambda connection: user_store.by_name(connection, username))
