"""What the agent can be told, and the small rules of a run."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from nodepool.domain.tasks.states import Outcome
from worker_agent.execution import cores_for, judge, memory_bytes
from worker_agent.gateway_client import GatewayOptions, GatewayRefusedError, check_plain_text, is_loopback
from worker_agent.options import RunnerChoice, parse_options
from worker_agent.runners.base import RunEnd

NEEDED = ["--gateway", "pool.example:50051", "--username", "ada"]
PASSWORD = {"HIVEMIND_PASSWORD": "a good password"}


def test_little_is_needed() -> None:
    options = parse_options([*NEEDED, "--node", "n1"], PASSWORD)
    assert options.node_id == "ada/n1"
    assert options.password == "a good password"
    assert options.runner is RunnerChoice.AUTO
    assert options.data_dir == Path.home() / ".hivemind" / "agent" / "n1"
    assert (options.grace_seconds, options.port, options.tls) == (20.0, 0, False)


def test_the_password_comes_from_a_file_before_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("from the file\n")
    assert parse_options([*NEEDED, "--password-file", str(file)], PASSWORD).password == "from the file"


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (["--gateway", "a:1", "--gateway", "b:2"], {}),
        (["--gateway", "a:1, b:2,a:1"], {}),
        ([], {"HIVEMIND_GATEWAY": "a:1,b:2"}),
        (["--gateway", "a:1,b:2"], {"HIVEMIND_GATEWAY": "c:3"}),
    ],
)
def test_several_gateways_are_named_as_people_like(words: list[str], environment: dict[str, str]) -> None:
    options = parse_options([*words, "--username", "ada"], {**PASSWORD, **environment})
    assert options.gateways == ("a:1", "b:2")


def test_a_gateway_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options(["--username", "ada"], PASSWORD)
    assert "give --gateway HOST:PORT or set HIVEMIND_GATEWAY" in capsys.readouterr().err


def test_certificates_to_check_with_turn_tls_on() -> None:
    assert parse_options([*NEEDED, "--ca-file", "ca.pem"], PASSWORD).tls


@pytest.mark.parametrize(
    ("more", "environment", "reason"),
    [
        ([], {}, "HIVEMIND_PASSWORD"),
        (["--password-file", "/does/not/exist"], PASSWORD, "No such file"),
        (["--node", "a/b"], PASSWORD, "node_id"),
        (["--location", "Atlantis"], PASSWORD, "Atlantis"),
        (["--gateway", "pool"], PASSWORD, "HOST:PORT"),
        (["--max-tasks", "257"], PASSWORD, "0 to 256"),
        (["--memory-gb", "-1"], PASSWORD, "0 to"),
        (["--password", "secret"], PASSWORD, ""),
        (["--runner", "magic"], PASSWORD, "magic"),
    ],
)
def test_what_is_wrong_is_named(
    more: list[str], environment: dict[str, str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_options([*NEEDED, *more], environment)
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:50051", True),
        ("127.8.8.8:50051", True),
        ("localhost:50051", True),
        ("[::1]:50051", True),
        ("192.168.1.2:50051", False),
        ("[2001:db8::1]:50051", False),
        ("localhost.example.com:50051", False),
        ("127.0.0.1.example.com:50051", False),
        ("gateway:50051", False),
    ],
)
def test_plain_text_stays_on_the_machine_unless_allowed(address: str, *, loopback: bool) -> None:
    assert is_loopback(address) is loopback
    options = {"addresses": (address,), "username": "ada", "password": "a good password"}
    if loopback:
        check_plain_text(GatewayOptions(**options))
    else:
        with pytest.raises(GatewayRefusedError, match="--allow-insecure-plaintext"):
            check_plain_text(GatewayOptions(**options))
    check_plain_text(GatewayOptions(**options, allow_insecure_plaintext=True))
    check_plain_text(GatewayOptions(**options, tls=True))


def test_one_gateway_elsewhere_is_enough_to_refuse_plain_text() -> None:
    two = GatewayOptions(addresses=("127.0.0.1:1", "gateway:2"), username="ada", password="a good password")
    with pytest.raises(GatewayRefusedError, match="gateway:2 is another machine"):
        check_plain_text(two)


def test_a_task_that_names_no_memory_gets_the_default() -> None:
    assert memory_bytes(0) == 512 << 20
    assert memory_bytes(3) == 3 << 30


@pytest.mark.parametrize(("score", "cores"), [(0, 1.0), (500, 0.5), (2000, 2.0), (9000, 4.0)])
def test_cores_follow_the_score_and_end_at_the_machine(score: int, cores: float) -> None:
    assert cores_for(score, score_per_core=1000.0, cores=4) == cores


@pytest.mark.parametrize(
    ("end", "outcome", "reason"),
    [
        ({"exit_code": 0}, Outcome.SUCCEEDED, ""),
        ({"exit_code": 3}, Outcome.FAILED, "exit code 3"),
        ({"exit_code": -signal.SIGKILL}, Outcome.FAILED, "9 (SIGKILL)"),
        ({"exit_code": -63}, Outcome.FAILED, "signal 63"),
        ({"exit_code": 0, "problem": "out of memory"}, Outcome.FAILED, "out of memory"),
        ({"exit_code": -15, "stopped": True}, Outcome.STOPPED, "owner"),
    ],
)
def test_a_run_is_judged_by_how_it_ended(end: dict[str, object], outcome: Outcome, reason: str) -> None:
    facts = {"stopped": False, "problem": "", "cpu_seconds": 0.0, "peak_memory_bytes": 0, **end}
    judged, why = judge(RunEnd(**facts))
    assert judged is outcome
    assert reason in why
