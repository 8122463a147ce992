"""What a crash or a node that left has left behind goes: files, keys, broker users, rows; nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select, update

from dispatcher import context
from dispatcher.context import open_files
from dispatcher.sweep.left_nodes import LeftNodes
from dispatcher.sweep.orphans import WRITTEN_LATELY_SECONDS, OrphanScan
from nodepool.domain.tasks.retention import DAY_SECONDS
from nodepool.messaging import names
from nodepool.settings import Settings
from nodepool.stores.files.file_store import FOLDERS, FileStore
from nodepool.stores.redis import broker_users, keys
from nodepool.stores.sql import nodes as node_store
from nodepool.stores.sql.tables import attempts, nodes, tasks
from tests.support.databases import sqlite_file
from tests.support.fleet import START, Fleet
from tests.support.money import add_payer
from tests.support.stores import attempt_of
from tests.support.valkey import TestValkey

_HOUR = 3600.0


@pytest.fixture
def fleet(valkey: TestValkey, tmp_path: Path) -> Iterator[Fleet]:
    settings = Settings.model_validate(
        {
            "redis_url": valkey.url,
            "db_path": sqlite_file(tmp_path / "users.db"),
            "task_storage_path": tmp_path / "storage",
            "node_days": 10,
        }
    )
    now = [START]
    with closing(context.build(settings, clock=lambda: now[0])) as dispatcher:
        yield Fleet(dispatcher, now, dispatcher.database.write(add_payer))


def _store(fleet: Fleet) -> FileStore:
    return open_files(fleet.dispatcher.settings)


def _put_result(files: FileStore, attempt_id: str) -> None:
    with files.result_writer(attempt_id) as writer:
        writer.write(b"a result")
        writer.commit()


def _age(folder: Path, seconds: float) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (START - seconds, START - seconds))


def _scan(fleet: Fleet, files: FileStore) -> int:
    scan = OrphanScan(fleet.dispatcher, files)
    return sum(scan.step() for _ in range(FOLDERS))


def test_files_that_belong_to_nothing_go_and_all_others_stay(fleet: Fleet) -> None:
    files, database = _store(fleet), fleet.dispatcher.database
    fleet.node("n1")
    needed = files.put_package(b"needed")
    files.put_package(b"nobody's")
    runs, ended = fleet.placed(package_sha256=needed), fleet.placed()
    of_running, of_ended = attempt_of(database, runs), attempt_of(database, ended)
    for attempt_id in (of_running, of_ended, "gone:1"):
        _put_result(files, attempt_id)
        files.put_log(attempt_id, b"a log")
    values = {"state": "SUCCEEDED", "finished_at": START, "result_attempt": of_ended}
    database.write(lambda c: c.execute(update(tasks).where(tasks.c.id == ended).values(values)))
    database.write(
        lambda c: c.execute(update(attempts).where(attempts.c.id == of_ended).values(state="finished"))
    )
    storage = fleet.dispatcher.settings.task_storage_path

    _age(storage, WRITTEN_LATELY_SECONDS - 60)
    assert _scan(fleet, files) == 0, "its row may be on its way"
    _age(storage, WRITTEN_LATELY_SECONDS + 60)
    assert _scan(fleet, files) == 3
    assert files.package_bytes(needed) == b"needed"
    assert files.result_bytes(of_running) == files.result_bytes(of_ended) == b"a result"
    assert files.log_bytes(of_ended) == b"a log"
    assert files.result_size("gone:1") == 0

    # Since its result was removed it is nobody's.
    gone = update(tasks).where(tasks.c.id == ended).values(files_removed_at=START, log_bytes=5)
    database.write(lambda c: c.execute(gone))
    assert _scan(fleet, files) == 1
    assert files.log_bytes(of_ended) == b"a log"


def test_a_store_of_another_database_is_left_alone(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    files = _store(fleet)
    assert files.belongs_to("another pool")
    files.put_package(b"of the other one")
    _age(fleet.dispatcher.settings.task_storage_path, WRITTEN_LATELY_SECONDS + 60)
    assert _scan(fleet, files) == 0
    assert "belong to another database" in caplog.text


def test_a_node_that_is_not_heard_of_for_long_has_left_and_is_forgotten(fleet: Fleet) -> None:
    dispatcher = fleet.dispatcher
    for node_id in ("here", "away", "busy"):
        fleet.node(node_id)
        broker_users.create(dispatcher.redis, node_id, base_url=dispatcher.settings.effective_redis_url)
    fleet.silence("away", "busy")
    fleet.dispatcher.database.write(lambda c: node_store.deactivate(c, "busy"))
    left = LeftNodes(dispatcher)

    def there() -> list[str]:
        query = select(nodes.c.id).order_by(nodes.c.id)
        return list(dispatcher.database.read(lambda c: c.execute(query).scalars().all()))

    fleet.now[0] += 11 * DAY_SECONDS
    fleet.report("here")
    late = LeftNodes(dispatcher)
    left.note_seen()
    assert late.take_out() == 0, "it has not listened yet"
    assert left.take_out() == 3
    # Gone out of the pool first, and forgotten with it, since none of its attempts is kept.
    assert there() == ["here"]
    assert dispatcher.registry.node_ids() == {"here", "busy"}


def test_a_node_with_attempts_that_are_kept_is_not_forgotten(fleet: Fleet) -> None:
    fleet.node("n1")
    fleet.placed()
    fleet.silence("n1")
    left = LeftNodes(fleet.dispatcher)
    fleet.now[0] += 11 * DAY_SECONDS
    assert left.take_out() == 1
    row = fleet.dispatcher.database.read(lambda c: node_store.find(c, "n1"))
    assert not row.active


def test_keys_and_users_of_nodes_that_left_go(fleet: Fleet, valkey: TestValkey) -> None:
    dispatcher, redis = fleet.dispatcher, fleet.dispatcher.redis
    fleet.node("ada/here")
    for node_id in ("ada/here", "ada/gone"):
        broker_users.create(redis, node_id, base_url=valkey.url)
        redis.set(keys.instance(node_id), "1")
        redis.hset(keys.reserved(node_id), "tasks", 1)
        redis.lpush(names.node_queue(node_id), "a hint")
    redis.lpush("high.asia", "a hint")
    redis.set("node:odd:thing:else", "1")
    left = LeftNodes(dispatcher)
    assert left.remove_keys() == 3
    found = {name.decode() for name in redis.scan_iter(count=1000)}  # type: ignore[union-attr]
    assert {keys.instance("ada/here"), keys.reserved("ada/here"), "node.ada/here", "high.asia"} <= found
    assert "node:odd:thing:else" in found
    assert not [name for name in found if "gone" in name]
    assert left.remove_users() == 1
    users = {str(name) for name in valkey.admin.acl_users()}
    assert broker_users.ids.broker_user("ada/here") in users
    assert broker_users.ids.broker_user("ada/gone") not in users
