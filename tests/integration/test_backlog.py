"""Hints that wait are taken many at once, in the order of trust, and what they name is placed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher import context
from dispatcher.context import Dispatcher
from dispatcher.placing.placement_loop import PlacementLoop
from nodepool.messaging.names import EXECUTE, PLACE
from nodepool.messaging.publisher import Hint, Publisher, make_app
from nodepool.settings import Settings
from nodepool.stores.redis import keys
from nodepool.stores.redis.hint_queues import HintQueues
from nodepool.stores.sql import tasks as task_store
from tests.support.databases import sqlite_file
from tests.support.stores import add_node, add_task, add_user
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until


@pytest.fixture
def dispatcher(valkey: TestValkey, tmp_path: Path) -> Iterator[Dispatcher]:
    settings = Settings.model_validate(
        {"redis_url": valkey.url, "db_path": sqlite_file(tmp_path / "pool.db")}
    )
    dispatcher = context.build(settings)
    yield dispatcher
    dispatcher.close()


@pytest.fixture
def publisher(dispatcher: Dispatcher) -> Iterator[Publisher]:
    publisher = Publisher(make_app(dispatcher.settings))
    yield publisher
    publisher.close()


def test_the_oldest_hints_of_the_highest_trust_are_taken_first(
    dispatcher: Dispatcher, publisher: Publisher
) -> None:
    queues = ("low.any", "high.asia", "normal.europe", "high.any")
    publisher.send_all([Hint(PLACE, f"{queue}-{number}", queue) for number in range(3) for queue in queues])
    backlog = HintQueues(dispatcher.redis)
    assert backlog.take(4) == ["high.asia-0", "high.asia-1", "high.asia-2", "high.any-0"]
    assert backlog.take(100) == [
        *("high.any-1", "high.any-2"),
        *(f"normal.europe-{number}" for number in range(3)),
        *(f"low.any-{number}" for number in range(3)),
    ]
    assert backlog.take(100) == []


def test_hints_as_celery_sends_them_one_by_one_are_read_too(
    dispatcher: Dispatcher, publisher: Publisher
) -> None:
    publisher.place("t1", "high", "any")
    assert HintQueues(dispatcher.redis).take(10) == ["t1"]


@pytest.mark.parametrize(
    "message",
    ["", "x", "[]", "{}", '{"body": "!", "headers": {}}', '{"body": "e30=", "headers": {"task": 1}}'],
)
def test_what_is_no_hint_is_dropped(dispatcher: Dispatcher, publisher: Publisher, message: str) -> None:
    dispatcher.redis.lpush("high.any", message)
    publisher.send_all(
        [Hint(EXECUTE, "t1:1", "high.any"), Hint(PLACE, "t1", "high.any"), Hint(PLACE, "t2", "high.any")]
    )
    assert HintQueues(dispatcher.redis).take(10) == ["t1", "t2"]
    assert dispatcher.redis.llen("high.any") == 0


def test_a_desk_that_hears_of_one_task_takes_the_hints_that_wait(
    dispatcher: Dispatcher, publisher: Publisher
) -> None:
    """Nobody consumes the queues here, and no sweep tells of anything."""
    owner_id = dispatcher.database.write(add_user)
    dispatcher.database.write(lambda c: add_node(c, owner_id, "n1", max_tasks=20))
    first, *others = (dispatcher.database.write(lambda c: add_task(c, owner_id)) for _ in range(10))
    dispatcher.lifecycle.sync_node("n1")
    dispatcher.redis.set(keys.report("n1"), "{}", ex=keys.REPORT_TTL_SECONDS)
    publisher.send_all([Hint(PLACE, task_id, "high.any") for task_id in others])
    placement_loop = PlacementLoop(dispatcher)
    placement_loop.start()
    try:
        placement_loop.hint(first)
        wait_until(lambda: len(dispatcher.database.read(task_store.live_attempts)) == 10, "all are placed")
    finally:
        placement_loop.stop()
    assert dispatcher.redis.llen("high.any") == 0
