"""A database meets a broker of another pool: nothing there is touched, and people are told what to do."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner, Result

from dispatcher import context
from dispatcher.placing.placement_loop import PlacementLoop
from dispatcher.sweep.left_nodes import LeftNodes
from dispatcher.sweep.sweeper import Sweeper
from local_pool.broker_command import broker
from nodepool.domain import ids
from nodepool.settings import Settings
from nodepool.stores.redis import broker_users, keys
from nodepool.stores.sql import pool_records
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.pool_tables import pool_records as table
from tests.support.databases import sqlite_file
from tests.support.fleet import START, Fleet
from tests.support.gateway import GatewayProcess
from tests.support.processes import TestProcess
from tests.support.stores import add_user
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until

_NODE = "ada/one"


@pytest.fixture
def fleet(valkey: TestValkey, tmp_path: Path) -> Iterator[Fleet]:
    """A pool that has marked its broker, with a node that has a user there."""
    settings = Settings.model_validate(
        {
            "redis_url": valkey.url,
            "db_path": sqlite_file(tmp_path / "users.db"),
            "task_storage_path": tmp_path / "storage",
        }
    )
    now = [START]
    built = context.build(settings, clock=lambda: now[0], steady=lambda: now[0])
    with closing(built):
        fleet = Fleet(built, now, built.database.write(add_user))
        built.own_broker.check()
        fleet.node(_NODE)
        broker_users.create(built.redis, _NODE, base_url=valkey.url)
        yield fleet


@pytest.fixture
def other(fleet: Fleet, tmp_path: Path) -> Path:
    """A database of another pool: a typo in DATABASE_URL, say."""
    (tmp_path / "other").mkdir()
    path = sqlite_file(tmp_path / "other" / "users.db")
    with closing(Database(f"sqlite:///{path}")) as database:
        database.write(lambda c: c.execute(table.update().values(value="f" * 32)))
    return path


def _there(valkey: TestValkey) -> tuple[dict[str, str | None], list[str]]:
    """All that lasts in the broker: keys with what they hold, and users with their rights."""
    lasting = [str(key) for key in valkey.admin.scan_iter(count=1000)]
    held = {key: str(valkey.admin.dump(key)) for key in lasting if valkey.admin.ttl(key) == -1}
    return held, sorted(map(str, valkey.admin.acl_list()))


def _dispatcher(gateway: GatewayProcess) -> TestProcess:
    argv = [sys.executable, "-m", "celery", "-A", "dispatcher", "worker", "--pool", "threads"]
    return TestProcess(
        "dispatcher",
        [*argv, "--hostname", "d@x"],
        gateway.env,
        gateway.home,
        gateway.home / "dispatcher.log",
    )


def test_no_part_starts_there_and_nothing_is_touched(
    fleet: Fleet, other: Path, valkey: TestValkey, tmp_path: Path
) -> None:
    before = _there(valkey)
    gateway = GatewayProcess(tmp_path / "other", valkey, DB_PATH=str(other))
    dispatcher = _dispatcher(gateway)
    for part in (gateway, dispatcher):
        part.start()
    for part in (gateway, dispatcher):
        wait_until(lambda part=part: not part.is_running, f"{part.name} has ended", 60)
    gateway.close()
    for part in (gateway, dispatcher):
        said = part.log()
        assert "cannot start: the broker has pool " in said
        assert "`hivemind admin broker take`" in said
        assert "Traceback" not in said
    assert _there(valkey) == before
    # The pool's own dispatcher goes on there.
    fleet.sweep(heard=(_NODE,))
    assert _there(valkey)[1] == before[1]


def test_a_dispatcher_whose_address_leads_to_another_broker_ends(fleet: Fleet, valkey: TestValkey) -> None:
    fleet.sweep(heard=(_NODE,))
    valkey.admin.set(keys.POOL_ID, "a" * 32)
    stranger = ids.broker_user("bob/two")
    broker_users.create(fleet.dispatcher.redis, "bob/two", base_url=valkey.url)
    valkey.admin.sadd(keys.NODES, "bob/two")
    before = _there(valkey)
    ended = threading.Event()
    sweeper = Sweeper(fleet.dispatcher, PlacementLoop(fleet.dispatcher), ended.set)
    sweeper.start()
    assert ended.wait(60)
    sweeper.stop()
    assert _there(valkey) == before
    assert stranger in valkey.admin.acl_users()
    assert not valkey.admin.exists(keys.SWEEPER)


def test_an_emptied_broker_is_marked_again_and_one_of_before_marks_is_known_by_its_nodes(
    fleet: Fleet, other: Path, valkey: TestValkey
) -> None:
    own = fleet.dispatcher.own_broker
    valkey.admin.flushall()
    own.check()
    assert valkey.admin.get(keys.POOL_ID) == own.pool_id
    fleet.sweep(heard=(_NODE,))
    valkey.admin.delete(keys.POOL_ID)
    answer = _command(valkey, other, "owner")
    assert answer.exit_code == 1, answer.output
    assert "nodes that this database has never heard of" in answer.output
    own.check()
    assert valkey.admin.get(keys.POOL_ID) == own.pool_id


def test_users_of_another_database_of_the_server_are_left_alone(fleet: Fleet, valkey: TestValkey) -> None:
    """Keys are a database's; users are the whole server's."""
    elsewhere = valkey.url.removesuffix("/0") + "/3"
    with closing(redis.Redis.from_url(elsewhere)) as client:
        broker_users.create(client, "bob/two", base_url=elsewhere)
    broker_users.create(fleet.dispatcher.redis, "ada/gone", base_url=valkey.url)
    assert LeftNodes(fleet.dispatcher).remove_users() == 1
    fleet.sweep(heard=(_NODE,))  # its first pass puts users back
    users = set(map(str, valkey.admin.acl_users()))
    assert {ids.broker_user("bob/two"), ids.broker_user(_NODE)} <= users
    assert ids.broker_user("ada/gone") not in users


def _command(valkey: TestValkey, database: Path, *arguments: str) -> Result:
    environment = {"REDIS_URL": valkey.url, "DB_PATH": str(database)}
    return CliRunner().invoke(broker, arguments, env=environment)


def test_it_is_taken_on_purpose_and_not_from_a_pool_that_works(
    fleet: Fleet, other: Path, valkey: TestValkey
) -> None:
    stopped = threading.Event()

    def serve() -> None:
        while not stopped.wait(0.2):
            fleet.dispatcher.liveness.say_gateway_serves()

    serving = threading.Thread(target=serve)
    fleet.dispatcher.liveness.say_gateway_serves()
    serving.start()
    try:
        refused = _command(valkey, other, "take", "--yes")
    finally:
        stopped.set()
        serving.join()
    assert refused.exit_code == 1
    assert "stop that pool first" in refused.output
    valkey.admin.delete(keys.GATEWAY)
    assert _command(valkey, other, "take").exit_code == 1, "nobody has said yes"
    taken = _command(valkey, other, "take", "--yes")
    assert taken.exit_code == 0, taken.output
    assert not valkey.admin.exists(keys.facts(_NODE))
    with closing(Database(f"sqlite:///{other}")) as database:
        assert valkey.admin.get(keys.POOL_ID) == database.read(pool_records.pool_id)
    assert "is this pool's" in _command(valkey, other, "owner").output
