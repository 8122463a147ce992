"""`hivemind.connect()`: the pool that the command speaks to, as the user who is logged in there.

What is given here wins over the environment, and that over the profile that `hivemind login` writes. Without
a login it says so when something is asked for.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

from hivemind import config
from hivemind.channel import Endpoint, RetryPolicy
from hivemind.config import CommandLineOptions, Connection
from hivemind.errors import InvalidInputError
from hivemind.pools.aio import AsyncPool
from hivemind.pools.link import ConnectionPlan
from hivemind.pools.pool import Pool
from hivemind.remembered import recall, remembered_path


def connect(
    gateway: str | None = None,
    *,
    token: str | None = None,
    profile: str | os.PathLike[str] | None = None,
    tls: bool | None = None,
    ca_file: str | os.PathLike[str] | None = None,
    allow_insecure_plaintext: bool | None = None,
    retry_seconds: float | None = None,
) -> Pool:
    """A pool as one user; nothing is sent yet. Close it after use, or use it in `with`.

    `gateway` is HOST:PORT, or several with commas; `profile` the file that `hivemind login` writes, where it
    is not the usual one; `retry_seconds` for how long a pool that cannot be reached is tried again. The token
    is renewed as long as the pool is in use, and a later `hivemind login` is noticed. Raises ConfigError,
    PlainTextError, InvalidInputError.
    """
    return Pool(plan(gateway, token, profile, tls, ca_file, allow_insecure_plaintext, retry_seconds))


def connect_async(
    gateway: str | None = None,
    *,
    token: str | None = None,
    profile: str | os.PathLike[str] | None = None,
    tls: bool | None = None,
    ca_file: str | os.PathLike[str] | None = None,
    allow_insecure_plaintext: bool | None = None,
    retry_seconds: float | None = None,
) -> AsyncPool:
    """The same for asyncio: `async with hivemind.connect_async() as pool`."""
    return AsyncPool(plan(gateway, token, profile, tls, ca_file, allow_insecure_plaintext, retry_seconds))


def plan(
    gateway: Any,
    token: Any,
    profile: Any,
    tls: Any,
    ca_file: Any,
    allow_insecure_plaintext: Any,
    retry_seconds: Any,
) -> ConnectionPlan:
    for name, value in (("gateway", gateway), ("token", token)):
        if value is not None and not (isinstance(value, str) and value):
            raise InvalidInputError(f"{name} must be text, not {type(value).__name__}")
    for name, value in (("tls", tls), ("allow_insecure_plaintext", allow_insecure_plaintext)):
        if value is not None and not isinstance(value, bool):
            raise InvalidInputError(f"{name} must be True, False or None, not {type(value).__name__}")
    for name, value in (("profile", profile), ("ca_file", ca_file)):
        if value is not None and not (isinstance(value, str | os.PathLike) and os.fspath(value)):
            raise InvalidInputError(f"{name} must be a path, not {type(value).__name__}")
    options = CommandLineOptions(
        gateway=gateway,
        tls=tls,
        ca_file=None if ca_file is None else os.fspath(ca_file),
        allow_insecure_plaintext=allow_insecure_plaintext,
    )
    path = config.profile_path(os.environ) if profile is None else Path(profile)
    found = config.resolve(config.load(path), os.environ, options)
    seconds = found.retry_seconds if retry_seconds is None else _seconds(retry_seconds)

    def kept_token() -> str:
        """Of a later login. A token that was given is the one that was meant."""
        return "" if token else config.resolve(config.load(path), os.environ, options).token

    return ConnectionPlan(
        Endpoint(
            address=found.gateway,
            tls=found.tls,
            ca_file=found.ca_file,
            allow_insecure_plaintext=found.allow_insecure_plaintext,
        ),
        token or found.token,
        RetryPolicy(patience_seconds=seconds),
        _first(found),
        kept_token,
    )


def _first(found: Connection) -> str:
    """Where one of several gateways was away lately, the one that answered."""
    addresses = found.gateway.split(",")
    known = recall(remembered_path(os.environ), found.gateway, time.time()) if len(addresses) > 1 else ""
    return known if known in addresses else random.choice(addresses)  # noqa: S311  no secret


def _seconds(value: Any) -> float:
    from hivemind.amounts import seconds_of  # noqa: PLC0415

    return seconds_of(value, "retry_seconds")
