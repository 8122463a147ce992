"""bcrypt, and how long it takes: as long for a name that nobody has as for one that somebody has.

It never runs inside a transaction: on SQLite all other writes would wait for it. It runs in niced threads of
its own: bcrypt lets go of the interpreter meanwhile, and so the processor is everybody else's.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial

import bcrypt

from nodepool.domain.accounts.credentials import MAX_PASSWORD_BYTES
from nodepool.heavy.lanes import be_nice

_NICE = 10
# Whoever asks waits in a lane of their own (see gateway.context), which has no more threads than are useful.
_THREADS = ThreadPoolExecutor(
    max(2, os.cpu_count() or 1), thread_name_prefix="bcrypt", initializer=partial(be_nice, _NICE)
)


def hashed(password: str, rounds: int) -> str:
    return _THREADS.submit(bcrypt.hashpw, password.encode(), bcrypt.gensalt(rounds)).result().decode()


def matches(password: str, password_hash: str | None, rounds: int) -> bool:
    """Whether it is the password of this hash. Without one it is not, after the same work."""
    given = password.encode()
    # bcrypt refuses what no registration accepts; those take as long as the others.
    usable = len(given) <= MAX_PASSWORD_BYTES and b"\0" not in given
    against = password_hash or dummy_hash(rounds)
    tried = given if usable else b"not usable"
    same = _THREADS.submit(bcrypt.checkpw, tried, against.encode()).result()
    return same and usable and bool(password_hash)


@lru_cache(maxsize=4)
def dummy_hash(rounds: int) -> str:
    """What the password for an unknown name is compared with."""
    return hashed("nobody's password", rounds)
