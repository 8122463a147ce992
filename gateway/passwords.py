"""bcrypt, and how long it takes: as long for a name that nobody has as for one that somebody has.

It never runs inside a transaction: on SQLite all other writes would wait for it.
"""

from __future__ import annotations

from functools import lru_cache

import bcrypt

from nodepool.credentials import MAX_PASSWORD_BYTES


def hashed(password: str, rounds: int) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(rounds)).decode()


def matches(password: str, password_hash: str | None, rounds: int) -> bool:
    """Whether it is the password of this hash. Without one it is not, after the same work."""
    given = password.encode()
    # bcrypt refuses what no registration accepts; those take as long as the others.
    usable = len(given) <= MAX_PASSWORD_BYTES and b"\0" not in given
    against = password_hash or dummy_hash(rounds)
    same = bcrypt.checkpw(given if usable else b"not usable", against.encode())
    return same and usable and bool(password_hash)


@lru_cache(maxsize=4)
def dummy_hash(rounds: int) -> str:
    """What the password for an unknown name is compared with."""
    return hashed("nobody's password", rounds)
