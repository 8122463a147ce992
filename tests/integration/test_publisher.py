"""Hints on a real broker: plain Celery reads them, a restart keeps them, an absent broker costs a moment."""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nodepool.messaging.names import EXECUTE, PLACE
from nodepool.messaging.publisher import Hint, Publisher, make_app
from nodepool.settings import Settings
from tests.support.environment import ROOT, free_port
from tests.support.processes import TestProcess
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until

# What anybody would write who knows the queue and the task's name only.
WORKER = """
from celery import Celery
app = Celery("plain")
app.config_from_object("celeryconfig")

@app.task(name="dispatcher.place")
def place(task_id):
    print(f"heard {task_id}", flush=True)
"""


def _settings(url: str) -> Settings:
    return Settings.model_validate({"redis_url": url})


@pytest.fixture
def publisher(valkey: TestValkey) -> Iterator[Publisher]:
    publisher = Publisher(make_app(_settings(valkey.url)))
    yield publisher
    publisher.close()


@pytest.fixture
def plain_worker(valkey: TestValkey, tmp_path: Path) -> Iterator[TestProcess]:
    (tmp_path / "plain.py").write_text(WORKER)
    process = TestProcess(
        "worker",
        [
            *(sys.executable, "-m", "celery", "-A", "plain", "worker", "-Q", "high.asia", "-P", "solo"),
            *("--without-mingle", "--without-gossip", "--without-heartbeat", "-l", "INFO"),
        ],
        {
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "PYTHONPATH": f"{tmp_path}:{ROOT}",
            "CELERY_BROKER_URL": valkey.url,
        },
        tmp_path,
        tmp_path / "worker.log",
    )
    yield process
    if process.is_running:
        process.stop()


def test_a_plain_celery_worker_reads_a_hint(
    publisher: Publisher, plain_worker: TestProcess, valkey: TestValkey
) -> None:
    assert publisher.place("before", "high", "asia")
    plain_worker.start()
    plain_worker.wait_for_line("heard before")
    assert publisher.place("after", "high", "asia")
    plain_worker.wait_for_line("heard after")
    assert valkey.admin.llen("high.asia") == 0


def test_hints_of_one_round_trip_are_as_celery_makes_them(publisher: Publisher, valkey: TestValkey) -> None:
    publisher.place("t1", "high", "asia")
    publisher.send_all(
        [Hint(PLACE, "t1", "high.asia"), Hint(PLACE, "t2", "high.asia"), Hint(EXECUTE, "t2:1", "node.n")]
    )
    celerys, first, second = (json.loads(text) for text in valkey.admin.lrange("high.asia", 0, -1)[::-1])
    (other,) = (json.loads(text) for text in valkey.admin.lrange("node.n", 0, -1))
    ids = [message["headers"].pop("id") for message in (celerys, first, second, other)]
    assert len(set(ids)) == 4
    for message, message_id in zip((celerys, first, second, other), ids, strict=True):
        assert message["headers"].pop("root_id") == message["properties"].pop("correlation_id") == message_id
        assert message["properties"].pop("delivery_tag")
        assert message["properties"].pop("reply_to")
    assert first == celerys
    assert second["headers"] == {**celerys["headers"], "argsrepr": "['t2']"}
    assert json.loads(base64.b64decode(second["body"]))[0] == ["t2"]
    assert {**second, "headers": 0, "body": 0} == {**celerys, "headers": 0, "body": 0}
    assert other["headers"]["task"] == EXECUTE
    assert other["properties"]["delivery_info"] == {"exchange": "", "routing_key": "node.n"}


def test_a_plain_celery_worker_reads_hints_of_one_round_trip(
    publisher: Publisher, plain_worker: TestProcess, valkey: TestValkey
) -> None:
    plain_worker.start()
    publisher.send_all([Hint(PLACE, name, "high.asia") for name in ("one", "two")])
    plain_worker.wait_for_line("heard one")
    plain_worker.wait_for_line("heard two")
    assert valkey.admin.llen("high.asia") == 0


def test_each_hint_goes_to_its_queue(publisher: Publisher, valkey: TestValkey) -> None:
    publisher.place("t", "low", "north-america")
    publisher.execute_all([("owner/n1", "t:1", "t"), ("owner/n2", "t:2", "t")])
    publisher.stop("owner/n1", "t:1")
    lengths = {name: valkey.admin.llen(name) for name in valkey.admin.keys("*")}
    assert lengths == {"low.north-america": 1, "node.owner/n1": 2, "node.owner/n2": 1}


def test_hints_that_are_not_waited_for_arrive_in_order_and_at_the_latest_with_close(
    publisher: Publisher, valkey: TestValkey
) -> None:
    for number in range(1200):
        publisher.place_soon(f"t{number}", "high", "asia")
    publisher.close()
    messages = [json.loads(text) for text in valkey.admin.lrange("high.asia", 0, -1)]
    names = [json.loads(base64.b64decode(message["body"]))[0][0] for message in messages]
    assert names[::-1] == [f"t{number}" for number in range(1200)]


def test_hints_and_the_publisher_survive_a_restart_of_the_broker(
    publisher: Publisher, valkey: TestValkey
) -> None:
    assert publisher.place("one", "high", "asia")
    # The file is written every second; this says when.
    wait_until(
        lambda: (
            valkey.admin.info("persistence")["aof_pending_bio_fsync"] == 0
            and valkey.admin.waitaof(1, 0, 30_000)[0] == 1
        ),
        "the hint is on disk",
        60,
    )
    valkey.kill()
    valkey.restart()
    assert valkey.admin.llen("high.asia") == 1
    assert publisher.place("two", "high", "asia")
    assert valkey.admin.llen("high.asia") == 2


def test_without_a_broker_a_hint_is_given_up_soon() -> None:
    publisher = Publisher(make_app(_settings(f"redis://127.0.0.1:{free_port()}/0")))
    begin = time.monotonic()
    assert not publisher.place("t", "high", "asia")
    assert not publisher.execute("n1", "t:1")
    assert time.monotonic() - begin < 30


def test_a_frozen_broker_holds_a_hint_up_for_a_bounded_time(publisher: Publisher, valkey: TestValkey) -> None:
    assert publisher.place("one", "high", "asia")
    valkey.freeze()
    try:
        begin = time.monotonic()
        assert not publisher.place("two", "high", "asia")
        assert time.monotonic() - begin < 60
    finally:
        valkey.thaw()
    assert wait_until(lambda: publisher.place("three", "high", "asia"), "the broker takes hints again", 60)


def test_many_threads_publish_without_losing_any(publisher: Publisher, valkey: TestValkey) -> None:
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(lambda n: publisher.place(f"t{n}", "high", "asia"), range(200)))
    assert valkey.admin.llen("high.asia") == 200


def test_a_closed_publisher_leaves_no_connection(publisher: Publisher, valkey: TestValkey) -> None:
    before = len(valkey.admin.client_list())
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: publisher.place("t", "high", "any"), range(20)))
    publisher.close()
    wait_until(lambda: len(valkey.admin.client_list()) <= before, "its connections are gone", 30)
