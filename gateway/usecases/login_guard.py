"""Guessing passwords: wrong ones in a row lock a name for a while, whether it exists or not.

An address that the account has logged in from before is counted by itself, and all others together. So
who guesses from elsewhere is locked out, and not the owner. The limit by the minute counts alike.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from gateway.context import Gateway
from nodepool.domain.accounts.credentials import is_username
from nodepool.domain.accounts.lockout import LockRules
from nodepool.domain.errors import RateLimitedError
from nodepool.domain.limit_names import LimitName
from nodepool.stores.sql import logins as login_store
from nodepool.stores.sql.database import Connection


@dataclass(frozen=True, slots=True)
class Guesser:
    """From where which name's password is tried; `guard` is what counts the wrong ones."""

    guard: str
    address: str = ""


def of_login(gateway: Gateway, username: str, address: str) -> Guesser:
    """Raises RateLimitedError while the name is locked for this address, as limits count it."""
    address, now = _hash("address", address), gateway.clock()
    # A name that nobody can have may not be storable either; it is asked for like any other.
    looked_up = username if is_username(username) else ""

    def work(connection: Connection) -> tuple[str, float]:
        known = login_store.is_known(connection, looked_up, address, now)
        guard = _hash("login", username, address if known else "")
        return guard, login_store.locked_until(connection, guard)

    guard, until = gateway.database.read(work)
    _check_unlocked(until, now)
    return Guesser(guard, address)


def of_change(gateway: Gateway, user_id: int) -> Guesser:
    """Who has a token and says the password once more. Raises RateLimitedError while it is locked."""
    guard = _hash("change", str(user_id))
    until = gateway.database.read(lambda connection: login_store.locked_until(connection, guard))
    _check_unlocked(until, gateway.clock())
    return Guesser(guard)


def wrong(gateway: Gateway, guesser: Guesser, password: str) -> None:
    settings, now = gateway.settings, gateway.clock()
    rules = LockRules(settings.login_lock_after, settings.login_lock_seconds)
    guess = gateway.tokens.fingerprint(f"{guesser.guard}\n{password}")
    gateway.database.write(
        lambda connection: login_store.count_wrong(connection, guesser.guard, guess, rules, now)
    )


def right(gateway: Gateway, guesser: Guesser, user_id: int) -> None:
    """Forgets the wrong ones from there, and remembers the address. Most often there is nothing to write."""
    now, address = gateway.clock(), guesser.address

    def news(connection: Connection) -> tuple[bool, bool]:
        failed = login_store.has_failures(connection, guesser.guard)
        new = bool(address) and login_store.needs_remembering(connection, user_id, address, now)
        return failed, new

    def work(connection: Connection) -> None:
        if failed:
            login_store.forgive(connection, guesser.guard)
        if new:
            login_store.remember(connection, user_id, address, now)

    failed, new = gateway.database.read(news)
    if failed or new:
        gateway.database.write(work)


def _check_unlocked(until: float, now: float) -> None:
    if until > now:
        seconds = math.ceil(until - now)
        raise RateLimitedError(
            f"too many wrong passwords for this name; try again in {seconds} seconds",
            retry_after_seconds=float(seconds),
            limit=LimitName.WRONG_PASSWORDS,
        )


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
