"""People and their CPT: register, log in, refresh, change of password, transfer, balance.

Use cases, with no gRPC in them.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

from gateway.auth import passwords
from gateway.auth.account_status import BLOCKED, ENDED, GONE
from gateway.auth.callers import current_client
from gateway.auth.tokens import CallerIdentity, IssuedToken
from gateway.context import Gateway
from gateway.usecases import login_guard, storage_quota
from gateway.usecases.login_guard import Guesser
from nodepool.domain import ids
from nodepool.domain.accounts.credentials import check_new_password, check_new_username, is_username
from nodepool.domain.errors import (
    AlreadyExistsError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    StateConflictError,
    UnauthenticatedError,
)
from nodepool.domain.money import ledger
from nodepool.domain.money.ledger import EntryKind, NewEntry
from nodepool.events.catalogue import LoginRefused, RefusalCause
from nodepool.events.telling import tell
from nodepool.metrics import catalogue
from nodepool.stores.sql import storage_accounting, users as user_store
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.users import NewUser, User


class AccountBalance(NamedTuple):
    spendable_cpt: int
    held_cpt: int
    credit_score: int
    stored_bytes: int
    stored_bytes_limit: int


class TransferResult(NamedTuple):
    balance_cpt: int
    repeated: bool


def check_newcomer(gateway: Gateway, username: str, password: str) -> None:
    """What of register is cheap to refuse. InvalidInputError, AlreadyExistsError."""
    check_new_username(username)
    check_new_password(password, username)
    gateway.database.read(lambda connection: _refuse_taken(connection, username))


def register(gateway: Gateway, username: str, password: str) -> None:
    """Makes a user with an account. InvalidInputError, AlreadyExistsError."""
    check_newcomer(gateway, username, password)
    newcomer = NewUser(
        username,
        passwords.hashed(password, gateway.settings.bcrypt_rounds),
        user_store.USER_ROLE,
        gateway.settings.newcomer_credit_score,
        gateway.settings.newcomer_balance_cpt,
    )
    now = gateway.clock()
    try:
        gateway.database.write(lambda connection: user_store.add(connection, newcomer, now))
    except AlreadyExistsError:
        gateway.database.read(lambda connection: _refuse_taken(connection, username))
        raise


def _refuse_taken(connection: Connection, username: str) -> None:
    taken = user_store.taken_name(connection, username)
    if taken == username:
        raise AlreadyExistsError(f"the name {username} is taken; choose another")
    if taken is not None:
        raise AlreadyExistsError(f"the name {username} is too much like one that is taken; choose another")


def login(gateway: Gateway, username: str, password: str, address: str = "") -> IssuedToken | None:
    """A token, or None for a wrong name or password, which take the same time.

    Raises RateLimitedError while the name is locked, whether it exists or not, and PermissionDeniedError
    for a blocked user whose password is right.
    """
    try:
        guesser = login_guard.of_login(gateway, username, address)
    except RateLimitedError:
        refuse_limited(gateway, username, address)
        raise
    user = gateway.database.read(lambda connection: _find(connection, username))
    right = passwords.matches(password, user.password_hash if user else None, gateway.settings.bcrypt_rounds)
    if user is None or not right:
        login_guard.wrong(gateway, guesser, password)
        _tell_refused(user, address, RefusalCause.WRONG)
        return None
    login_guard.right(gateway, guesser, user.id)
    if user.blocked:
        _tell_refused(user, address, RefusalCause.BLOCKED)
        raise PermissionDeniedError(BLOCKED)
    catalogue.logins.labels("accepted").inc()
    return gateway.tokens.issue(_identity_of(user))


def refuse_limited(gateway: Gateway, username: str, address: str) -> None:
    """Tells of a login that was not even looked at: too many wrong ones came before."""
    user = gateway.database.read(lambda connection: _find(connection, username))
    _tell_refused(user, address, RefusalCause.LIMITED)


def _tell_refused(user: User | None, address: str, cause: RefusalCause) -> None:
    """A name that is nobody's is not told: it may be a password."""
    tell(LoginRefused(user=user.username if user is not None else "", address=address, cause=cause))


def refresh(gateway: Gateway, identity: CallerIdentity) -> IssuedToken:
    """A new token with a full lifetime, for one that has not ended since the caller was let in."""
    user = gateway.database.read(lambda connection: _present(connection, identity))
    return gateway.tokens.issue(_identity_of(user))


def check_change(gateway: Gateway, identity: CallerIdentity, old: str, new: str) -> Guesser:
    """What of change_password is cheap to refuse."""
    check_new_password(new, identity.username)
    if new == old:
        raise InvalidInputError("the new password is the old one; choose another")
    return login_guard.of_change(gateway, identity.user_id)


def change_password(gateway: Gateway, identity: CallerIdentity, old: str, new: str) -> IssuedToken:
    """Ends every token there is, and gives a new one. PermissionDeniedError for a wrong old password."""
    guesser = check_change(gateway, identity, old, new)
    user = gateway.database.read(lambda connection: _present(connection, identity))
    rounds = gateway.settings.bcrypt_rounds
    if not passwords.matches(old, user.password_hash, rounds):
        login_guard.wrong(gateway, guesser, old)
        tell(
            LoginRefused(
                user=user.username, address=current_client().counted, cause=RefusalCause.OLD_PASSWORD
            )
        )
        raise PermissionDeniedError("the old password is wrong; nothing was changed")
    login_guard.right(gateway, guesser, user.id)
    password_hash = passwords.hashed(new, rounds)
    generation = gateway.database.write(
        lambda connection: user_store.set_password(connection, user.id, user.generation, password_hash)
    )
    gateway.standings.forget(user.id)
    if generation is None:
        raise StateConflictError("the password was changed by somebody else at this moment; log in again")
    return gateway.tokens.issue(CallerIdentity(user.id, user.username, user.role, generation))


def balance(gateway: Gateway, identity: CallerIdentity, username: str) -> AccountBalance:
    """The CPT of the caller's own account. PermissionDeniedError for another's."""
    if username not in ("", identity.username):
        raise PermissionDeniedError("you can see your own balance only")

    def work(connection: Connection) -> AccountBalance:
        score = user_store.credit_score(connection, identity.user_id)
        stored = storage_accounting.stored_bytes(connection, identity.user_id)
        cpt = ledger_store.balance(connection, identity.user_id)
        return AccountBalance(*cpt, score, stored, storage_quota.bound(gateway, score))

    return gateway.database.read(work)


def transfer(
    gateway: Gateway, sender: CallerIdentity, receiver_name: str, amount_cpt: int, transfer_id: str = ""
) -> TransferResult:
    """Moves CPT, all or nothing; the same transfer again moves nothing more.

    InvalidInputError, NotFoundError, NotEnoughCptError; AlreadyExistsError where the id was another
    transfer's; PermissionDeniedError where one of both is blocked.
    """
    ledger.check_amount(amount_cpt)
    if transfer_id:
        ids.check_movement_id(transfer_id, "transfer_id")
    if receiver_name == sender.username:
        raise InvalidInputError("you cannot transfer CPT to yourself")
    now = gateway.clock()
    # Older clients send none, and every one of their calls is a transfer of its own.
    entry_id = ledger.transfer_id(sender.user_id, transfer_id or secrets.token_hex(16))

    def work(connection: Connection) -> TransferResult:
        _present(connection, sender)
        receiver = _find(connection, receiver_name)
        if receiver is None:
            raise NotFoundError("there is no user of the receiver's name")
        movement = NewEntry(
            entry_id,
            EntryKind.TRANSFER,
            ledger.user_account(sender.user_id),
            ledger.user_account(receiver.id),
            amount_cpt,
        )
        moved = _move_once(connection, movement, now)
        if moved and receiver.blocked:
            raise PermissionDeniedError("the receiver's account is blocked; nothing was moved")
        return TransferResult(ledger_store.balance(connection, sender.user_id)[0], not moved)

    return gateway.database.write(work)


def _move_once(connection: Connection, movement: NewEntry, now: float) -> bool:
    """False where this very movement was made before."""
    try:
        return bool(ledger_store.move(connection, [movement], now))
    except StateConflictError as error:
        if not ledger_store.entry_exists(connection, movement.id):
            raise
        raise AlreadyExistsError(
            "a transfer with this transfer_id was made before, of another amount or to another receiver; "
            "nothing was moved"
        ) from error


def _find(connection: Connection, username: str) -> User | None:
    # What cannot be a name may not be storable either.
    user = user_store.by_name(connection, username) if is_username(username) else None
    # The pool's own users are nobody's: they neither log in nor are given anything.
    return None if user is None or user.role == user_store.SYSTEM_ROLE else user


def _present(connection: Connection, identity: CallerIdentity) -> User:
    """The caller's row. Gateways remember for a second who may call; what matters most looks again."""
    user = user_store.by_id(connection, identity.user_id)
    if user is None or user.username != identity.username:
        raise UnauthenticatedError(GONE)
    if user.blocked:
        raise PermissionDeniedError(BLOCKED)
    if user.generation != identity.generation:
        raise UnauthenticatedError(ENDED)
    return user


def _identity_of(user: User) -> CallerIdentity:
    return CallerIdentity(user.id, user.username, user.role, user.generation)
