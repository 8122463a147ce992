"""What the dispatcher's tasks and its sweep share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial

from dispatcher.deferred_ends import DeferredEnds
from nodepool.clock import Clock, PoolClock, steady_clock
from nodepool.domain.scheduling.fair_share import Decay
from nodepool.messaging.publisher import Publisher, make_app
from nodepool.settings import Settings
from nodepool.stores.files import opening
from nodepool.stores.files.file_store import FileStore
from nodepool.stores.files.secret_box import SecretBox
from nodepool.stores.redis.client import Client, connect
from nodepool.stores.redis.liveness import Liveness
from nodepool.stores.redis.monitor_words import MonitorWords
from nodepool.stores.redis.node_registry import NodeRegistry
from nodepool.stores.redis.output import OutputStore
from nodepool.stores.redis.pool_time import BrokerTime
from nodepool.stores.redis.usage import UsageStore
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.migrate import migrate
from nodepool.workflows.broker_owner import OwnBroker
from nodepool.workflows.lifecycle import Lifecycle

_DATABASE_PATIENCE_SECONDS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatcher:
    settings: Settings
    database: Database
    redis: Client
    own_broker: OwnBroker
    registry: NodeRegistry
    liveness: Liveness
    usage: UsageStore
    publisher: Publisher
    lifecycle: Lifecycle
    clock: Clock
    steady: Clock  # for how long something took: nobody sets it
    deferred_ends: DeferredEnds

    def close(self) -> None:
        self.deferred_ends.close()
        self.publisher.close()
        self.database.close()
        if isinstance(self.clock, PoolClock):
            self.clock.close()
        self.redis.close()


def open_files(settings: Settings) -> FileStore:
    """The gateway's file store; the folder is shared, and so is the key."""
    return opening.open_files(settings.task_storage_path, settings.storage_key)


def open_secret_box(settings: Settings) -> SecretBox:
    """The gateway's, for what it has sealed."""
    return opening.open_secret_box(settings.task_storage_path, settings.storage_key)


def build(settings: Settings, clock: Clock | None = None, steady: Clock = steady_clock) -> Dispatcher:
    """`clock`: the pool's own, unless a test or a simulation has another."""
    # Short: what stands still for longer is to know that it was an outage.
    patience = min(_DATABASE_PATIENCE_SECONDS, settings.node_late_seconds / 4)
    database = Database(settings.effective_database_url, patience_seconds=patience)
    migrate(database)
    client = connect(settings)
    clock = clock or PoolClock(BrokerTime(client)).start()
    registry = NodeRegistry(client)
    usage = UsageStore(client, Decay(settings.fair_share_half_life_seconds))
    publisher = Publisher(make_app(settings, "dispatcher-publisher"))
    outputs = OutputStore(client, settings.max_live_output_bytes, settings.max_live_output_mb << 20)
    return Dispatcher(
        settings=settings,
        database=database,
        redis=client,
        own_broker=OwnBroker(database, client),
        registry=registry,
        liveness=Liveness(client),
        usage=usage,
        publisher=publisher,
        lifecycle=Lifecycle(
            settings,
            database,
            registry,
            outputs,
            usage,
            publisher,
            clock,
            cache(partial(open_files, settings)),
            MonitorWords(client),
        ),
        clock=clock,
        steady=steady,
        deferred_ends=DeferredEnds(settings.heavy_limits),
    )
