"""What the dispatcher's tasks and its sweep share."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import redis

from nodepool.clock import Clock, system_clock
from nodepool.lifecycle import Lifecycle
from nodepool.queues import Publisher, make_app
from nodepool.settings import Settings
from nodepool.stores.database import Database
from nodepool.stores.migrate import migrate
from nodepool.stores.output_store import OutputStore
from nodepool.stores.redis_client import connect
from nodepool.stores.registry import Registry
from nodepool.stores.waiting import WaitingTasks


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatcher:
    settings: Settings
    database: Database
    redis: redis.Redis
    registry: Registry
    waiting: WaitingTasks
    publisher: Publisher
    lifecycle: Lifecycle
    clock: Clock
    # Two passes over the waiting tasks at once would only race each other.
    waiting_pass: threading.Lock = field(default_factory=threading.Lock)
    waiting_asked: threading.Event = field(default_factory=threading.Event)

    def close(self) -> None:
        self.publisher.close()
        self.database.close()
        self.redis.close()


def build(settings: Settings, clock: Clock = system_clock) -> Dispatcher:
    database = Database(settings.effective_database_url)
    migrate(database)
    client = connect(settings)
    registry, waiting = Registry(client), WaitingTasks(client)
    publisher = Publisher(make_app(settings, "dispatcher-publisher"))
    outputs = OutputStore(client, settings.max_live_output_bytes)
    return Dispatcher(
        settings=settings,
        database=database,
        redis=client,
        registry=registry,
        waiting=waiting,
        publisher=publisher,
        lifecycle=Lifecycle(settings, database, registry, outputs, waiting, publisher, clock),
        clock=clock,
    )
