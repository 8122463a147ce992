"""Statuses, errors and exit codes: one table each, without holes."""

from __future__ import annotations

import inspect

import grpc
import pytest

import hivemind
from hivemind import errors
from hivemind.channel import (
    STATUS_TO_ERROR,
    Endpoint,
    GatewayChannel,
    RetryPolicy,
    check_address,
    is_loopback,
)
from hivemind.cli.entry import cli
from hivemind.errors import EXIT_CODE_MEANINGS, ClientError, ConfigError, ExitCode, PlainTextError
from hivemind.models import TaskInfo, exit_code_of
from hivemind.tokens import read_token
from nodepool.domain.tasks.states import TaskState

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ClientError)]


def test_every_status_but_ok_has_an_error() -> None:
    assert set(STATUS_TO_ERROR) == set(grpc.StatusCode) - {grpc.StatusCode.OK}


def test_the_exit_codes_are_the_promised_ones() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "OK": 0,
        "FAILURE": 1,
        "USAGE": 2,
        "NOT_ALLOWED": 3,
        "NOT_FOUND": 4,
        "UNREACHABLE": 5,
        "REFUSED": 6,
        "NOT_YET": 7,
        "TIME_IS_OVER": 124,
        "INTERRUPTED": 130,
    }


def test_every_exit_code_is_explained_in_the_help() -> None:
    assert set(EXIT_CODE_MEANINGS) == set(ExitCode)
    assert cli.epilog is not None
    for code, meaning in EXIT_CODE_MEANINGS.items():
        assert f"{int(code):3}  {meaning}" in cli.epilog


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_has_a_message_and_a_code_of_its_own(kind: type[ClientError]) -> None:
    assert str(kind())
    assert "\n" not in str(kind())
    assert [other for other in KINDS if other.code == kind.code] == [kind]


def test_everything_that_is_exported_is_there() -> None:
    for name in hivemind.__all__:
        assert getattr(hivemind, name) is not None
    with pytest.raises(AttributeError):
        hivemind.nothing_of_this_name  # noqa: B018


@pytest.mark.parametrize(
    ("state", "exit_code", "expected"),
    [
        (TaskState.SUCCEEDED, 0, 0),
        (TaskState.FAILED, 3, 3),
        (TaskState.FAILED, -9, 137),
        (TaskState.FAILED, -15, 143),
        (TaskState.FAILED, None, 1),
        (TaskState.FAILED, 0, 1),
        (TaskState.FAILED, 256, 1),
        (TaskState.STOPPED, None, 130),
        (TaskState.STOPPED, -15, 130),
    ],
)
def test_the_exit_code_of_a_task_is_what_a_shell_would_say(
    state: TaskState, exit_code: int | None, expected: int
) -> None:
    assert exit_code_of(TaskInfo(task_id="t", status="", state=state, exit_code=exit_code)) == expected


@pytest.mark.parametrize("address", ["localhost:1", "127.0.0.1:50051", "127.8.8.8:1", "[::1]:50051"])
def test_loopback_needs_no_tls(address: str) -> None:
    assert is_loopback(address)
    with GatewayChannel(Endpoint(address=address)):
        pass


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1:1", "pool.example:50051", "[2001:db8::1]:1", "localhost.evil.example:1", "0.0.0.0:1"],
)
def test_another_machine_needs_tls_or_a_clear_word(address: str) -> None:
    assert not is_loopback(address)
    with pytest.raises(PlainTextError, match="no TLS") as caught:
        GatewayChannel(Endpoint(address=address))
    assert "--allow-insecure-plaintext" in caught.value.hint
    for endpoint in (
        Endpoint(address=address, tls=True),
        Endpoint(address=address, allow_insecure_plaintext=True),
    ):
        with GatewayChannel(endpoint):
            pass


@pytest.mark.parametrize(
    "address",
    ["", "host", "host:", ":1", "host:0", "host:70000", "a b:1", "unix:///x:1", "u@h:1", "dns:///h:1"],
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        check_address(address)


def test_a_ca_file_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigError, match="CA file"):
        GatewayChannel(Endpoint(address="pool.example:1", tls=True, ca_file="/nowhere/ca.pem"))


def test_repeats_wait_longer_and_longer_up_to_a_limit() -> None:
    policy = RetryPolicy(first_delay_seconds=1, max_delay_seconds=8)
    for attempt, full in ((1, 1), (2, 2), (3, 4), (4, 8), (5, 8), (1000, 8)):
        assert full / 2 <= policy.delay_seconds(attempt) <= full


@pytest.mark.parametrize(
    "token", ["", "x", "a.b.c", "a.e30.c", "a.bnVsbA.c", "a.W10.c", "a.eyJzdWIiOiJhIiwiZXhwIjoieCJ9.c"]
)
def test_a_damaged_token_is_no_login(token: str) -> None:
    with pytest.raises(errors.NotLoggedInError, match="damaged"):
        read_token(token)
