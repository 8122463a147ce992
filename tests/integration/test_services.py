"""The services that other tests stand on do what those tests take for granted."""

from __future__ import annotations

import docker
import psycopg
import pytest
import redis
import sqlalchemy

from tests.support.postgres import fresh_database
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until


def test_valkey_knows_nobody_without_a_password(valkey: TestValkey) -> None:
    with redis.Redis(port=valkey.port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def test_valkey_keeps_its_data_and_its_users_over_a_crash(valkey: TestValkey) -> None:
    valkey.admin.set("kept", "yes")
    valkey.admin.execute_command("ACL", "SETUSER", "someone", "on", ">a-password", "+ping")
    valkey.admin.acl_save()
    valkey.admin.execute_command("WAITAOF", 1, 0, 5000)
    valkey.kill()
    valkey.restart()
    assert valkey.admin.get("kept") == "yes"
    assert valkey.client("someone", "a-password").ping()


def test_every_test_meets_an_empty_valkey(valkey: TestValkey) -> None:
    assert valkey.admin.dbsize() == 0
    assert set(valkey.admin.acl_users()) == {"default", valkey.user}


def test_an_empty_database_has_no_tables(empty_database_url: str) -> None:
    engine = sqlalchemy.create_engine(empty_database_url, poolclass=sqlalchemy.NullPool)
    assert sqlalchemy.inspect(engine).get_table_names() == []
    engine.dispose()


@pytest.mark.postgres
def test_a_database_is_dropped_under_whoever_forgot_to_leave() -> None:
    with fresh_database() as url:
        forgotten = psycopg.connect(url.replace("+psycopg", ""))
    with forgotten, pytest.raises(psycopg.OperationalError):
        forgotten.execute("select 1")


@pytest.mark.docker
def test_the_image_runs_python_without_a_network(docker_engine: docker.DockerClient, test_image: str) -> None:
    output = docker_engine.containers.run(
        test_image,
        ["python", "-c", "import json, ssl, zlib, zipfile; print('alive')"],
        remove=True,
        network_mode="none",
        read_only=True,
    )
    assert output == b"alive\n"


def test_wait_until_says_what_it_waited_for() -> None:
    with pytest.raises(AssertionError, match=r"not so that pigs fly; last: \[\]"):
        wait_until(list, "pigs fly", timeout=0.05)
