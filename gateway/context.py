"""What the gateway's servicers share: settings, stores and the one bounded pool of threads."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import ParamSpec, TypeVar

import redis

from gateway.events import EventHub
from gateway.memory import MemoryBudget
from gateway.reading import Reader
from gateway.standing import Standings
from gateway.tokens import Tokens
from gateway.unfinished import UnfinishedCounts
from nodepool.clock import Clock, system_clock
from nodepool.lifecycle import Lifecycle
from nodepool.queues import Publisher, make_app
from nodepool.settings import Settings
from nodepool.stores.database import Database
from nodepool.stores.files import FileStore, load_or_make_key
from nodepool.stores.migrate import migrate
from nodepool.stores.output_store import OutputStore
from nodepool.stores.redis_client import connect
from nodepool.stores.registry import Registry
from nodepool.stores.usage_store import UsageStore
from nodepool.stores.user_store import Standing, standing
from nodepool.usage import Decay

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    settings: Settings
    database: Database
    redis: redis.Redis
    registry: Registry
    files: FileStore
    outputs: OutputStore
    publisher: Publisher
    lifecycle: Lifecycle
    tokens: Tokens
    standings: Standings
    events: EventHub
    clock: Clock
    unfinished: UnfinishedCounts
    memory: MemoryBudget
    reader: Reader
    threads: ThreadPoolExecutor = field(repr=False)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run synchronous work on the bounded pool, with the caller's context variables."""
        context = contextvars.copy_context()
        call = partial(work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self.threads, context.run, call)

    def close(self) -> None:
        self.events.close()
        self.threads.shutdown(wait=True, cancel_futures=True)
        self.publisher.close()
        self.database.close()
        self.redis.close()


def build(settings: Settings, clock: Clock = system_clock) -> Gateway:
    """Open everything, migrate the database, and make the secrets that are not set."""
    database = Database(settings.effective_database_url)
    migrate(database)
    client = connect(settings)
    registry, outputs = Registry(client), OutputStore(client, settings.max_live_output_bytes)
    publisher = Publisher(make_app(settings, "gateway"))
    root = settings.task_storage_path
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    threads = ThreadPoolExecutor(settings.grpc_threads, thread_name_prefix="use-case")
    memory = MemoryBudget(settings.grpc_memory_mb << 20)
    return Gateway(
        settings=settings,
        database=database,
        redis=client,
        registry=registry,
        files=FileStore(root, load_or_make_key(settings.storage_key, root / "storage.key")),
        outputs=outputs,
        publisher=publisher,
        lifecycle=Lifecycle(
            settings,
            database,
            registry,
            outputs,
            UsageStore(client, Decay(settings.fair_share_half_life_seconds)),
            publisher,
            clock,
        ),
        tokens=Tokens.from_settings(settings),
        standings=Standings(partial(_standing, database, threads)),
        events=EventHub(connect(settings)),
        clock=clock,
        unfinished=UnfinishedCounts(time.monotonic),
        memory=memory,
        reader=Reader(memory, settings.grpc_stall_seconds),
        threads=threads,
    )


async def _standing(database: Database, threads: ThreadPoolExecutor, user_id: int) -> Standing | None:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(threads, database.read, partial(standing, user_id=user_id))
