"""What `hivemind up` would run, without running it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from local_pool import plan
from local_pool.plan import LocalMachine, PoolOptions, Secrets
from local_pool.supervisor import FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS, STEADY_SECONDS, Backoff
from local_pool.valkey import acl_text, config_text
from nodepool.settings import Settings

SECRETS = Secrets(jwt="j" * 43, storage="s" * 43, operator="o" * 43, flower="f" * 43)
MACHINE = LocalMachine(cores=4, memory_bytes=16 << 30)
BROKER = "redis://pool:broker-password@127.0.0.1:7000/0"


def options(**changes: Any) -> PoolOptions:
    values: dict[str, Any] = {
        "data_dir": Path("/data"),
        "grpc_port": 50051,
        "flower_port": 5555,
        "agents": 2,
        "runner": "auto",
        "flower": True,
    }
    return PoolOptions(**{**values, **changes})


def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **environment: str) -> Settings:
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Settings.model_validate({})


def environment_of(made: Settings, base: dict[str, str]) -> dict[str, str]:
    return plan.pool_environment(base, made, options(), SECRETS, BROKER)


def test_with_nothing_set_all_is_in_the_data_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = settings(monkeypatch, tmp_path)
    assert plan.wants_embedded_broker(made)
    environment = environment_of(made, {"PATH": "/bin"})
    assert environment["DB_PATH"] == "/data/pool.db"
    assert environment["TASK_STORAGE_PATH"] == "/data/storage"
    assert environment["REDIS_URL"] == environment["CELERY_BROKER_URL"] == BROKER
    assert environment["JWT_SECRET_KEY"] == SECRETS.jwt
    assert environment["STORAGE_KEY"] == SECRETS.storage
    assert environment["GRPC_SERVER_PORT"] == "50051"
    assert environment["PATH"] == "/bin"


def test_what_the_operator_has_set_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = {
        "DATABASE_URL": "postgresql://db/pool",
        "JWT_SECRET_KEY": "k" * 40,
        "TASK_STORAGE_PATH": "/mnt/tasks",
    }
    environment = environment_of(settings(monkeypatch, tmp_path, **given), dict(given))
    assert {name: environment[name] for name in given} == given
    assert "DB_PATH" not in environment
    assert "STORAGE_KEY" not in environment, "a storage elsewhere has its own key beside it"


def test_the_operators_account_is_the_gateways_first_admin_and_nobody_elses_business(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment = environment_of(settings(monkeypatch, tmp_path), {"PATH": "/bin"})
    assert not {"ADMIN_USERNAME", "ADMIN_PASSWORD"} & environment.keys()
    of_gateway = plan.gateway_environment(environment, options(operator="ada"), SECRETS)
    assert of_gateway == {**environment, "ADMIN_USERNAME": "ada", "ADMIN_PASSWORD": SECRETS.operator}


@pytest.mark.parametrize("name", ["REDIS_URL", "REDIS_HOST", "REDIS_PORT", "REDIS_DB"])
def test_any_word_about_redis_means_that_one_and_not_the_embedded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    value = {"REDIS_URL": "redis://there", "REDIS_HOST": "there"}.get(name, "7")
    assert not plan.wants_embedded_broker(settings(monkeypatch, tmp_path, **{name: value}))


def test_redis_named_in_the_env_file_counts_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("REDIS_HOST=there\n")
    assert not plan.wants_embedded_broker(settings(monkeypatch, tmp_path))


def test_an_agent_gets_its_password_and_none_of_the_pools_settings() -> None:
    base = {
        "PATH": "/bin",
        "DOCKER_HOST": "unix:///run/docker.sock",
        "REDIS_URL": BROKER,
        "DATABASE_URL": "postgresql://pool:secret@db/pool",
        "JWT_SECRET_KEY": "x",
        "STORAGE_KEY": "x",
        "CELERY_BROKER_URL": BROKER,
        "FLOWER_BASIC_AUTH": "a:b",
        "HIVEMIND_TOKEN": "x",
    }
    assert plan.agent_environment(base, "the-agents-own") == {
        "PATH": "/bin",
        "DOCKER_HOST": "unix:///run/docker.sock",
        "HIVEMIND_PASSWORD": "the-agents-own",
        "PYTHONUNBUFFERED": "1",
    }


def test_no_secret_is_on_a_command_line_where_everybody_could_read_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = settings(monkeypatch, tmp_path)
    environment = {"REDIS_URL": BROKER}
    parts = [
        plan.gateway_part(environment),
        plan.dispatcher_part(environment),
        plan.flower_part(environment, options(), SECRETS, bool),
        plan.agent_part(1, environment, made, options(), MACHINE),
    ]
    words = [word for part in parts for word in part.argv]
    for secret in (SECRETS.jwt, SECRETS.storage, SECRETS.operator, SECRETS.flower, BROKER):
        assert not any(secret in word for word in words)


def test_the_dispatcher_serves_high_before_normal_before_low() -> None:
    argv = plan.dispatcher_part({}).argv
    tiers = [queue.split(".")[0] for queue in argv[argv.index("-Q") + 1].split(",")]
    assert tiers == ["push", "notify"] + ["high"] * 8 + ["normal"] * 8 + ["low"] * 8


def test_agents_stop_first_and_the_gateway_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = settings(monkeypatch, tmp_path)
    parts = [
        plan.gateway_part({}),
        plan.dispatcher_part({}),
        plan.flower_part({}, options(), SECRETS, bool),
        plan.agent_part(1, {}, made, options(), MACHINE),
    ]
    assert [part.stage for part in parts] == sorted({part.stage for part in parts})


def test_flower_takes_the_operators_own_login() -> None:
    own = plan.flower_part({"FLOWER_BASIC_AUTH": "me:mine"}, options(), SECRETS, bool)
    assert own.env["FLOWER_BASIC_AUTH"] == "me:mine"
    made = plan.flower_part({}, options(), SECRETS, bool)
    assert made.env["FLOWER_BASIC_AUTH"] == f"flower:{SECRETS.flower}"
    assert "127.0.0.1" in made.argv


def agent_argv(made: Settings, *, number: int = 1, agents: int = 1) -> list[str]:
    return list(plan.agent_part(number, {}, made, options(agents=agents), MACHINE).argv)


def test_agents_belong_to_the_local_account_and_never_to_the_admin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    argv = agent_argv(settings(monkeypatch, tmp_path))
    assert argv[argv.index("--username") + 1] == "local" != plan.OPERATOR


def test_strangers_are_let_in_without_isolation_only_where_the_option_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = settings(monkeypatch, tmp_path)
    assert plan.STRANGERS_OPTION not in agent_argv(made)
    asked = plan.agent_part(1, {}, made, options(accept_strangers=True), MACHINE).argv
    assert plan.STRANGERS_OPTION in asked


def test_several_agents_share_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    argv = agent_argv(settings(monkeypatch, tmp_path), number=2, agents=2)
    assert argv[argv.index("--memory-gb") + 1] == "6"
    assert argv[argv.index("--cpu-score") + 1] == "2000"
    assert argv[argv.index("--node") + 1] == "agent-2"
    assert plan.node_id(2) == "local/agent-2"
    assert plan.worker_name(2, "ada") == "agent@ada/agent-2"


def test_agents_speak_to_the_gateway_as_it_is_set_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain = agent_argv(settings(monkeypatch, tmp_path))
    assert "--ca-file" not in plain
    assert "--allow-insecure-plaintext" not in plain
    tls = {"GRPC_TLS_CERT_FILE": "/tls/cert.pem", "GRPC_TLS_KEY_FILE": "/tls/key.pem"}
    argv = agent_argv(settings(monkeypatch, tmp_path, **tls))
    assert argv[argv.index("--ca-file") + 1] == "/tls/cert.pem"


def test_an_operator_who_accepts_plain_text_accepts_it_for_the_agents(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    named = {"GRPC_SERVER_HOST": "10.1.2.3", "ALLOW_INSECURE_PLAINTEXT": "true"}
    assert "--allow-insecure-plaintext" in agent_argv(settings(monkeypatch, tmp_path, **named))


def test_a_single_agent_measures_the_machine_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    argv = agent_argv(settings(monkeypatch, tmp_path))
    assert "--memory-gb" not in argv
    assert "--cpu-score" not in argv


def test_every_agent_has_a_gibibyte_at_least() -> None:
    assert plan.memory_share_gb(LocalMachine(cores=1, memory_bytes=1 << 30), 8) == 1


def test_a_gateway_on_all_addresses_is_reached_over_loopback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    everywhere = settings(monkeypatch, tmp_path, GRPC_SERVER_HOST="0.0.0.0")
    assert plan.gateway_address(everywhere, options()) == "127.0.0.1:50051"
    named = settings(monkeypatch, tmp_path, GRPC_SERVER_HOST="10.1.2.3")
    assert plan.gateway_address(named, options()) == "10.1.2.3:50051"


def test_the_wait_before_a_restart_doubles_to_its_bound() -> None:
    backoff = Backoff()
    delays = [backoff.after(lived_seconds=0.1) for _ in range(9)]
    assert delays[:4] == [0.5, 1.0, 2.0, 4.0]
    assert delays[-2:] == [LONGEST_DELAY_SECONDS, LONGEST_DELAY_SECONDS]


def test_a_part_that_lived_long_is_started_again_soon() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.after(lived_seconds=1.0)
    assert backoff.after(lived_seconds=STEADY_SECONDS) == FIRST_DELAY_SECONDS
    assert backoff.after(lived_seconds=1.0) == 2 * FIRST_DELAY_SECONDS


def test_the_broker_is_for_loopback_keeps_its_data_and_refuses_large_values() -> None:
    lines = config_text(
        folder=Path("/d/va lkey"), acl_file=Path('/d/a"b.acl'), port=7000, max_memory_bytes=1 << 30
    ).splitlines()
    for line in (
        "bind 127.0.0.1",
        "port 7000",
        'dir "/d/va lkey"',
        'aclfile "/d/a\\"b.acl"',
        "appendonly yes",
        "appendfsync everysec",
        "proto-max-bulk-len 1mb",
        "maxmemory 1073741824",
        "maxmemory-clients 268435456",
        "maxmemory-policy noeviction",
        "daemonize no",
    ):
        assert line in lines


def test_the_access_list_keeps_agents_and_renews_the_pools_own_user() -> None:
    agent = "user agent-1 on #00 resetchannels -@all +ping"
    old = f"user default on nopass ~* &* +@all\nuser pool on #11 ~* &* +@all\n{agent}\n"
    lines = acl_text(old, user="pool", password="new").splitlines()
    digest = hashlib.sha256(b"new").hexdigest()
    assert lines == [
        "user default off resetpass resetkeys resetchannels -@all",
        f"user pool on #{digest} ~* &* +@all",
        agent,
    ]
    assert acl_text("", user="pool", password="new").splitlines() == lines[:2]
