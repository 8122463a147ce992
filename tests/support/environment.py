"""The environment of a test run: nothing of the person's own pool, and parts that must not be missing."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from pathlib import Path
from typing import NoReturn

import pytest

from nodepool.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
OURS = ("HIVEMIND_TEST_", "HIVEMIND_REQUIRE_ALL")
# `make long`: more random orders and moments, and larger simulations, than CI waits for.
LONG = os.environ.get("HIVEMIND_TEST_LONG") == "1"
_NEVER_GIVEN = (16_384, 32_768)
_handed_out: set[int] = set()
# Not the one whose seed pytest sets: processes beside this one would draw the same.
_random = random.SystemRandom()
FOREIGN = ("HIVEMIND_", "REDIS_", "CELERY_", "FLOWER_", "GRPC_", "JWT_", "DATABASE_URL", "PG")


def is_foreign(name: str) -> bool:
    """Whether a variable of this name could steer the pool under test."""
    if name.startswith(OURS):
        return False
    return name.startswith(FOREIGN) or name.lower() in Settings.model_fields


def scrub(environ: os._Environ[str]) -> None:
    for name in [name for name in environ if is_foreign(name)]:
        del environ[name]


def everything_is_required() -> bool:
    return os.environ.get("CI") == "true" or bool(os.environ.get("HIVEMIND_REQUIRE_ALL"))


def not_here(what: str) -> NoReturn:
    """A part that the test needs is missing: a skip on a person's machine, a failure in CI."""
    message = f"{what}; `make test` brings it"
    if everything_is_required():
        pytest.fail(f"{message}, and here every part is required")
    pytest.skip(message)


def free_port() -> int:
    """One that is free, and that no connection takes by chance before it is listened on.

    The system gives outgoing connections their ports from higher ones.
    """
    while True:
        port = _random.randrange(*_NEVER_GIVEN)
        if port in _handed_out:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _handed_out.add(port)
            return port
