"""Wrong passwords in a row, and addresses that an account has logged in from.

Functions of a connection: the use case that calls them owns the transaction. Names that exist and names
that do not are treated alike, so that nobody learns here which is which.
"""

from __future__ import annotations

from contextlib import suppress

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from nodepool.domain.accounts.lockout import FORGOTTEN_AFTER_SECONDS, LockRules
from nodepool.stores.sql.tables import login_addresses, login_guards, users

ADDRESS_KEPT_SECONDS = 90 * 24 * 3600.0
# Seen within this time is as good as now: not every login is a write.
_SEEN_LATELY_SECONDS = 24 * 3600.0
_MOST_ADDRESSES = 32


def is_known(connection: Connection, username: str, address: str, now: float) -> bool:
    """Has the account of this name logged in from there? Never where there is no such account."""
    query = (
        select(login_addresses.c.address)
        .join(users, users.c.id == login_addresses.c.user_id)
        .where(
            users.c.username == username,
            login_addresses.c.address == address,
            login_addresses.c.seen_at > now - ADDRESS_KEPT_SECONDS,
        )
    )
    return connection.execute(query).one_or_none() is not None


def locked_until(connection: Connection, guard: str) -> float:
    """0 where nothing is locked."""
    query = select(login_guards.c.locked_until).where(login_guards.c.id == guard)
    return float(connection.execute(query).scalar_one_or_none() or 0.0)


def count_wrong(connection: Connection, guard: str, guess: str, rules: LockRules, now: float) -> float:
    """One wrong password more, unless it is the last one again. When the lock ends; 0 for none."""
    guards = login_guards.c
    query = select(guards.failures, guards.last_guess, guards.changed_at).where(guards.id == guard)
    row = connection.execute(query.with_for_update()).one_or_none()
    if row is None:
        _forget_old(connection, now)
        return _first_wrong(connection, guard, guess, rules, now)
    if row.changed_at < now - FORGOTTEN_AFTER_SECONDS:
        failures = 1
    elif row.last_guess == guess:
        return 0.0
    else:
        failures = row.failures + 1
    values = _values(failures, guess, rules, now)
    connection.execute(update(login_guards).where(guards.id == guard).values(values))
    return float(values["locked_until"])


def _first_wrong(connection: Connection, guard: str, guess: str, rules: LockRules, now: float) -> float:
    values = _values(1, guess, rules, now)
    try:
        with connection.begin_nested():
            connection.execute(insert(login_guards).values(id=guard, **values))
    except IntegrityError:
        # Another guess came between, and its row is there now.
        return count_wrong(connection, guard, guess, rules, now)
    return float(values["locked_until"])


def _values(failures: int, guess: str, rules: LockRules, now: float) -> dict[str, int | float | str]:
    seconds = rules.seconds(failures)
    return {
        "failures": failures,
        "locked_until": now + seconds if seconds else 0.0,
        "last_guess": guess,
        "changed_at": now,
    }


def forgive(connection: Connection, guard: str) -> None:
    connection.execute(delete(login_guards).where(login_guards.c.id == guard))


def has_failures(connection: Connection, guard: str) -> bool:
    return connection.execute(select(login_guards.c.id).where(login_guards.c.id == guard)).first() is not None


def needs_remembering(connection: Connection, user_id: int, address: str, now: float) -> bool:
    columns = login_addresses.c
    query = select(columns.seen_at).where(columns.user_id == user_id, columns.address == address)
    seen_at = connection.execute(query).scalar_one_or_none()
    return seen_at is None or seen_at < now - _SEEN_LATELY_SECONDS


def remember(connection: Connection, user_id: int, address: str, now: float) -> None:
    """The account logged in from there. Of very many addresses the latest are kept."""
    columns = login_addresses.c
    mine = columns.user_id == user_id
    connection.execute(delete(login_addresses).where(mine, columns.address == address))
    oldest = select(columns.address).where(mine).order_by(columns.seen_at.desc()).offset(_MOST_ADDRESSES - 1)
    old = connection.execute(oldest).scalars().all()
    if old:
        connection.execute(delete(login_addresses).where(mine, columns.address.in_(old)))
    # Another login from there may have remembered it at the same moment.
    with suppress(IntegrityError), connection.begin_nested():
        connection.execute(insert(login_addresses).values(user_id=user_id, address=address, seen_at=now))


def _forget_old(connection: Connection, now: float) -> None:
    old = login_guards.c.changed_at < now - FORGOTTEN_AFTER_SECONDS
    connection.execute(delete(login_guards).where(old))
