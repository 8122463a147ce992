"""Keeps a process's secrets to itself: out of core files, of its user's other processes, of its environment.

For the `__main__` of every process that holds secrets, before anything else. Knows names of variables,
and nothing of what is behind them.

Linux shows a process's environment as it was at its start, its memory and its open files to every other
process of the same user, unless it is not dumpable. It becomes dumpable again with every exec, and until it
has come here it can be looked at: so a supervisor hands secrets over a pipe that is read after that.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
from collections.abc import Mapping, MutableMapping

PIPE_VARIABLE = "HIVEMIND_SECRETS_FD"
SECRET_NAMES = frozenset(
    {
        "ADMIN_PASSWORD",
        "CELERY_BROKER_READ_URL",
        "CELERY_BROKER_URL",
        "CELERY_BROKER_WRITE_URL",
        "DATABASE_URL",
        "FLOWER_BASIC_AUTH",
        "HIVEMIND_PASSWORD",
        "HIVEMIND_TOKEN",
        "JWT_SECRET_KEY",
        "REDIS_SENTINEL_PASSWORD",
        "REDIS_URL",
        "SMTP_PASSWORD",
        "STORAGE_KEY",
        "VALKEY_PASSWORD",
    }
)
_PR_SET_DUMPABLE = 4
# Of a pipe that nobody reads yet, what Linux takes without blocking.
_MOST_BYTES = 60_000


def harden() -> None:
    """No core file, and where the system can, no look into this process by others of its user."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError("this process cannot be kept from others of its user: prctl failed")


def split(environment: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """(what may stand in a process's environment, what goes to it by `pipe_of`)."""
    plain = {name: value for name, value in environment.items() if name not in SECRET_NAMES}
    return plain, {name: environment[name] for name in environment if name in SECRET_NAMES}


def pipe_of(secrets: Mapping[str, str]) -> int:
    """A descriptor for a child to inherit, from which it reads them once; the caller closes it."""
    data = json.dumps(dict(secrets)).encode()
    if len(data) > _MOST_BYTES:
        raise ValueError("the secrets are too long to be handed over")
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        os.write(writer, data)
    finally:
        os.close(writer)
    return reader


def begin(environment: MutableMapping[str, str]) -> bool:
    """Where a supervisor hands secrets over: harden, then add them to the environment. Whether it does."""
    told = environment.pop(PIPE_VARIABLE, "")
    if not told:
        return False
    harden()
    with open(int(told), "rb") as pipe:  # noqa: PTH123 - a descriptor
        environment.update(json.load(pipe))
    return True


def forget_secrets(environment: MutableMapping[str, str] | None = None) -> None:
    """Once they have been read: out of the environment that children get, and out of its first copy."""
    if environment is None:
        environment = os.environ
        _overwrite()
    for name in SECRET_NAMES & environment.keys():
        del environment[name]


def _overwrite() -> None:
    """What the process was started with stays in its memory however a variable is unset; here it goes."""
    if sys.platform != "linux":
        return
    entries = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), "environ")
    index = 0
    while entries and (address := entries[index]):
        name, _, value = ctypes.string_at(address).partition(b"=")
        if os.fsdecode(name) in SECRET_NAMES:
            ctypes.memset(address + len(name) + 1, 0, len(value))
        index += 1
