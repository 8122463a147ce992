"""TLS to the broker is checked by every part, and a part that does not trust it says so and ends."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from kombu.exceptions import OperationalError

from nodepool.domain.errors import BrokerNotTrustedError, InvalidInputError, UnavailableError
from nodepool.messaging.publisher import Publisher, make_app
from nodepool.settings import Settings
from nodepool.stores.redis import certificates
from nodepool.stores.redis.client import connect
from nodepool.stores.redis.node_registry import NodeRegistry
from tests.support.agent_stage import Stage
from tests.support.environment import ROOT, free_port
from tests.support.haproxy import TlsDoors
from tests.support.processes import TestProcess
from tests.support.valkey import TestValkey
from worker_agent.celery_consumer import ConsumerOptions, build_app

BAD_DOORS = ("of another authority", "of another host", "expired")


@pytest.fixture(scope="module")
def doors(valkey_server: TestValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsDoors]:
    made = TlsDoors(tmp_path_factory.mktemp("doors"), valkey_server.port)
    made.process.begin()
    yield made
    made.process.kill()


def settings_of(doors: TlsDoors, valkey: TestValkey, door: str, **more: object) -> Settings:
    url = doors.url(door, f"{valkey.user}:{valkey.password}@")
    return Settings.model_validate({"redis_url": url, "redis_ca_file": doors.authority.file, **more})


def heard_by_redis_py(settings: Settings) -> bool:
    client = connect(settings)
    try:
        return bool(client.ping())
    finally:
        client.close()


def heard_by_celery(settings: Settings) -> bool:
    publisher = Publisher(make_app(settings))
    try:
        return publisher.execute("n1", "a:1")
    finally:
        publisher.close()


def consumed_by_an_agent(settings: Settings) -> bool:
    """An agent's own Celery application, told what its enrolment says."""
    options = ConsumerOptions(
        node_id="o/n",
        broker_url=settings.broker.url,
        broker_ca_pem=certificates.authority_for_agents(settings),
        queue="node.o/n",
        control_exchange="ctl",
        event_exchange="ev",
        events_enabled=False,
        max_tasks=1,
    )
    with build_app(options, print, print).connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
        return bool(connection.default_channel.client.ping())


def speaks(way: Callable[[Settings], bool], settings: Settings) -> bool:
    """Whether it does. Whatever else goes wrong than the certificate is raised."""
    try:
        return way(settings)
    except (redis.ConnectionError, OperationalError) as error:
        if "CERTIFICATE_VERIFY_FAILED" not in str(error):
            raise
        return False


WAYS = (heard_by_redis_py, heard_by_celery, consumed_by_an_agent)


@pytest.mark.parametrize("way", WAYS)
def test_a_broker_with_the_right_certificate_is_heard(
    doors: TlsDoors, valkey: TestValkey, way: Callable[[Settings], bool]
) -> None:
    assert way(settings_of(doors, valkey, "good"))


@pytest.mark.parametrize("door", BAD_DOORS)
@pytest.mark.parametrize("way", WAYS)
def test_no_library_speaks_to_a_broker_with_another_certificate(
    doors: TlsDoors, valkey: TestValkey, way: Callable[[Settings], bool], door: str
) -> None:
    assert not speaks(way, settings_of(doors, valkey, door))
    assert valkey.admin.keys("node.*") == []


@pytest.mark.parametrize("door", BAD_DOORS)
def test_what_is_wrong_with_a_certificate_is_said(doors: TlsDoors, valkey: TestValkey, door: str) -> None:
    settings = settings_of(doors, valkey, door)
    with connect(settings) as client:
        with pytest.raises(BrokerNotTrustedError) as told:
            certificates.check(client, settings)
        with pytest.raises(UnavailableError, match="does not trust its Redis"):
            NodeRegistry(client).node_ids()
    words = str(told.value)
    reason = {"of another authority": "unable to get local issuer", "of another host": "IP address mismatch"}
    assert reason.get(door, "certificate has expired") in words
    assert "REDIS_CA_FILE" in words
    assert valkey.password not in words


def test_a_broker_that_is_away_is_no_reason_not_to_start(doors: TlsDoors) -> None:
    settings = Settings.model_validate({"redis_url": f"rediss://127.0.0.1:{free_port()}"})
    with connect(settings) as client:
        certificates.check(client, settings)


def test_a_broker_without_tls_is_not_spoken_to_in_plain_text(valkey: TestValkey) -> None:
    url = valkey.url.replace("redis://", "rediss://")
    settings = Settings.model_validate({"redis_url": url, "redis_timeout_seconds": 0.3})
    with connect(settings) as client, pytest.raises((redis.ConnectionError, redis.TimeoutError)):
        client.ping()


def test_files_that_hold_no_certificates_are_told_by_the_settings_name(
    doors: TlsDoors, valkey: TestValkey, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    for name, path in (
        ("redis_ca_file", empty), ("redis_ca_file", tmp_path / "none"), ("agent_redis_ca_file", empty)
    ):  # fmt: skip
        settings = settings_of(doors, valkey, "good", **{name: path})
        with connect(settings) as client, pytest.raises(InvalidInputError, match=name.upper()):
            certificates.check(client, settings)


# -- each part as a process --------------------------------------------------------------------------
def environment(doors: TlsDoors, valkey: TestValkey, folder: Path) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "REDIS_URL": doors.url("of another authority", f"{valkey.user}:{valkey.password}@"),
        "REDIS_CA_FILE": str(doors.authority.file),
        "JWT_SECRET_KEY": secrets.token_hex(32),
        "DB_PATH": str(folder / "users.db"),
        "TASK_STORAGE_PATH": str(folder / "storage"),
        "FLOWER_BASIC_AUTH": "flower:a-flower-password",
    }


PARTS = {
    "gateway": ("gateway",),
    "dispatcher": ("celery", "-A", "dispatcher", "worker", "-P", "threads", "-c", "1"),
    "flower": ("dispatcher.flower", "--port", "0"),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_the_pool_ends_at_its_start_and_says_why(
    doors: TlsDoors, valkey: TestValkey, tmp_path: Path, part: str
) -> None:
    argv = [sys.executable, "-m", *PARTS[part]]
    process = TestProcess(part, argv, environment(doors, valkey, tmp_path), tmp_path, tmp_path / "part.log")
    process.start()
    assert process.process.wait(60) == 1, process.log_tail()
    assert f"{part}: cannot start: no connection to the broker at rediss://127.0.0.1:" in process.log()
    assert "REDIS_CA_FILE" in process.log()
    assert valkey.password not in process.log()


def test_an_agent_ends_at_its_start_and_says_why(doors: TlsDoors, valkey: TestValkey, tmp_path: Path) -> None:
    stage = Stage(tmp_path, valkey, broker_ca_pem=doors.authority.file.read_text())
    stage.gateway.broker_url = lambda user, word: doors.url("expired", f"{user}:{word}@")
    try:
        stage.agent.start()
        assert stage.agent.process.wait(60) == 1, stage.agent.log_tail()
        assert "certificate has expired" in stage.agent.log()
        assert "--broker-ca-file" in stage.agent.log()
    finally:
        stage.close()


def test_an_agents_owner_may_have_an_authority_of_his_own(
    doors: TlsDoors, valkey: TestValkey, tmp_path: Path
) -> None:
    """What the pool says does not count then."""
    stage = Stage(tmp_path, valkey, broker_ca_pem=doors.authority.file.read_text())
    stage.gateway.broker_url = lambda user, word: doors.url("of another authority", f"{user}:{word}@")
    try:
        stage.start("--broker-ca-file", str(doors.other.file))
        attempt = stage.send("t:1", {"main.py": "print('over TLS')"})
        assert stage.outcome(attempt) == "SUCCEEDED"
    finally:
        stage.close()
