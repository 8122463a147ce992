"""`hivemind.connect()`: whose pool it is, and that its token lasts."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

import hivemind
from hivemind import config
from nodepool.protocol import nodepool_pb2 as pb
from tests.support import command
from tests.support.scripted_server import Scripted, token_of

environment, server = command.environment, command.server
LASTING, NEWER = token_of("ada", exp=4_000_000_000), token_of("ada", exp=4_000_000_001)


def tells(server: Scripted) -> None:
    server.answers("GetBalance", pb.GetBalanceResponse(success=True, balance=7))


def bearers(server: Scripted) -> list[str]:
    return [each["authorization"].removeprefix("Bearer ") for each in server.metadata["GetBalance"]]


def logged_in(server: Scripted, home: Path, token: str) -> None:
    account = config.Account(username="ada", token=token)
    path = home / ".config" / "hivemind" / "profile.json"
    config.save(path, config.Profile(gateway=server.address, accounts={server.address: account}))


def test_it_is_the_pool_that_the_command_speaks_to(
    server: Scripted, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tells(server)
    logged_in(server, Path(environment["HOME"]), LASTING)
    monkeypatch.delenv("HIVEMIND_GATEWAY")
    with hivemind.connect() as pool:
        assert (pool.balance().balance, pool.whoami().username) == (7, "ada")
        assert repr(pool) == f"<Pool {server.address} as ada>"
    monkeypatch.setenv("HIVEMIND_TOKEN", NEWER)
    with hivemind.connect() as pool:
        pool.balance()
    with hivemind.connect(server.address, token=LASTING) as pool:
        pool.balance()
    assert bearers(server) == [LASTING, NEWER, LASTING]


def test_a_token_that_ends_soon_is_renewed_once(server: Scripted, environment: dict[str, str]) -> None:
    ending = token_of("ada", exp=time.time() + 60)
    server.answers("RefreshToken", pb.RefreshTokenResponse(success=True, token=LASTING))
    tells(server)
    with hivemind.connect(server.address, token=ending) as pool:
        pool.balance()
        pool.balance()

    async def the_same() -> None:
        async with hivemind.connect_async(server.address, token=ending) as aio:
            await aio.balance()

    asyncio.run(the_same())
    assert bearers(server) == [LASTING] * 3
    assert len(server.asked["RefreshToken"]) == 2


def test_one_that_cannot_be_renewed_lasts_as_long_as_it_lasts(
    server: Scripted, environment: dict[str, str]
) -> None:
    ending = token_of("ada", exp=time.time() + 60)
    server.answers("RefreshToken", grpc.StatusCode.INTERNAL)
    tells(server)
    with hivemind.connect(server.address, token=ending) as pool:
        pool.balance()
        pool.balance()
    assert bearers(server) == [ending] * 2
    assert len(server.asked["RefreshToken"]) == 1


def test_a_later_login_is_noticed(server: Scripted, environment: dict[str, str]) -> None:
    def balance(_request: Any, context: grpc.ServicerContext) -> pb.GetBalanceResponse:
        told = dict(context.invocation_metadata())["authorization"]
        if not str(told).endswith(NEWER):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the password was changed")
        return pb.GetBalanceResponse(success=True, balance=7)

    server.on("GetBalance", balance)
    logged_in(server, Path(environment["HOME"]), LASTING)
    with hivemind.connect() as pool:
        with pytest.raises(hivemind.NotLoggedInError):
            pool.balance()
        logged_in(server, Path(environment["HOME"]), NEWER)
        assert pool.balance().balance == 7
    with hivemind.connect(token=LASTING) as pool, pytest.raises(hivemind.NotLoggedInError):
        pool.balance()


def test_who_is_away_is_told_over_asyncio_too(environment: dict[str, str]) -> None:
    async def ask() -> None:
        async with hivemind.connect_async("127.0.0.1:9", token=LASTING, retry_seconds=0) as aio:
            await aio.balance()

    with pytest.raises(hivemind.UnreachableError, match="cannot be reached"):
        asyncio.run(ask())


def test_statuses_are_the_same_errors_over_asyncio(server: Scripted, environment: dict[str, str]) -> None:
    async def ask() -> None:
        async with hivemind.connect_async(server.address, token=LASTING) as aio:
            await aio.task("task_1").status()

    for status, kind in (
        (grpc.StatusCode.NOT_FOUND, hivemind.MissingError),
        (grpc.StatusCode.PERMISSION_DENIED, hivemind.NotAllowedError),
        (grpc.StatusCode.INVALID_ARGUMENT, hivemind.RefusedError),
    ):
        server.answers("PollTaskStatus", status)
        with pytest.raises(kind):
            asyncio.run(ask())
