"""A dispatcher's consumer whose line to the broker died or was away connects again within seconds."""

from __future__ import annotations

from typing import Any

from nodepool import keepalive
from nodepool.messaging.consumer import PromptConsumer
from nodepool.messaging.publisher import make_app
from nodepool.settings import Settings


def test_the_pauses_before_a_broker_that_is_away_do_not_grow() -> None:
    asked: list[dict[str, Any]] = []

    class Connection:
        def ensure_connection(self, *_: Any, **options: Any) -> Connection:
            asked.append(options)
            return self

    consumer = PromptConsumer.__new__(PromptConsumer)
    consumer.app = make_app(Settings())
    consumer.first_connection_attempt = False
    consumer.ensure_connected(Connection())
    (options,) = asked
    assert options["interval_max"] <= 2.0
    assert options["interval_start"] <= 2.0


def test_celery_is_told_of_the_consumer_and_of_silence() -> None:
    conf = make_app(Settings()).conf
    assert conf.worker_consumer == f"{PromptConsumer.__module__}:{PromptConsumer.__name__}"
    options = conf.broker_transport_options
    assert options["health_check_interval"] == keepalive.PING_SECONDS
    assert options["socket_keepalive_options"] == keepalive.tcp_options()
    # kombu looks once in that time, and gives an answer to BRPOP, which takes a second, so long.
    assert 1 + 2 * options["health_check_interval"] <= 10
