"""What the gateway's servicers share: settings, stores, and where work is done.

Four lanes, each fair by account: threads for what is cheap, a few for long answers, threads for
passwords, and processes for what strangers can make dear (see nodepool.heavy).
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ParamSpec, TypeVar

from gateway.admission.message_memory import MemoryBudget
from gateway.admission.message_reader import MessageReader
from gateway.admission.request_limits import RequestLimits
from gateway.auth.account_status import AccountStatuses
from gateway.auth.callers import whose_work
from gateway.auth.registered_tokens import RegisteredTokens, TokenNode
from gateway.auth.tokens import CallerIdentity, Tokens
from gateway.caches.claims import Claims
from gateway.caches.refused_packages import RefusedPackages
from gateway.caches.task_events import EventHub
from gateway.caches.unfinished_counts import UnfinishedCounts
from gateway.health import PoolHealth
from gateway.proxies.client_addresses import ClientAddresses
from nodepool.clock import Clock, PoolClock, steady_clock
from nodepool.domain.errors import UnavailableError
from nodepool.domain.outages import OwnOutages
from nodepool.domain.scheduling.fair_share import Decay
from nodepool.domain.scheduling.fair_turns import QueueBounds
from nodepool.heavy.lanes import ThreadLane
from nodepool.heavy.processes import HeavyWork
from nodepool.messaging.publisher import Publisher, make_app
from nodepool.settings import Settings
from nodepool.stores.files.file_store import FileStore
from nodepool.stores.files.opening import open_files, open_secret_box
from nodepool.stores.files.secret_box import SecretBox
from nodepool.stores.redis.client import Client, connect
from nodepool.stores.redis.monitor_words import MonitorWords
from nodepool.stores.redis.node_registry import NodeRegistry
from nodepool.stores.redis.output import OutputStore
from nodepool.stores.redis.pool_time import BrokerTime
from nodepool.stores.redis.usage import UsageStore
from nodepool.stores.sql import nodes as node_store
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.migrate import migrate
from nodepool.stores.sql.users import AccountStatus, account_status
from nodepool.workflows.broker_owner import OwnBroker
from nodepool.workflows.lifecycle import Lifecycle

# Long answers that are made at once.
_LISTS = 3
# Of calls that wait for PostgreSQL: a server is started again in less, and clients wait for longer.
_DATABASE_PATIENCE_SECONDS = 20.0

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    settings: Settings
    database: Database
    redis: Client
    own_broker: OwnBroker
    registry: NodeRegistry
    files: FileStore
    secret_box: SecretBox = field(repr=False)
    outputs: OutputStore
    publisher: Publisher
    lifecycle: Lifecycle
    tokens: Tokens
    standings: AccountStatuses
    registered: RegisteredTokens
    events: EventHub
    clock: Clock  # one for all that is decided here; its monotonic part measures runs (see Claims)
    outages: OwnOutages
    unfinished: UnfinishedCounts
    claims: Claims
    memory: MemoryBudget
    reader: MessageReader
    addresses: ClientAddresses
    limits: RequestLimits
    refused: RefusedPackages
    health: PoolHealth
    cheap: ThreadLane = field(repr=False)
    lists: ThreadLane = field(repr=False)
    passwords: ThreadLane = field(repr=False)
    heavy: HeavyWork = field(repr=False)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run cheap synchronous work on the bounded threads, with the caller's context variables."""
        context = contextvars.copy_context()
        call = partial(context.run, partial(work, *args, **kwargs))
        return await asyncio.wrap_future(self.cheap.submit(whose_work(), call))

    async def run_list(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same of what makes long answers: few at once, for they keep the interpreter from all others."""
        context = contextvars.copy_context()
        call = partial(context.run, partial(work, *args, **kwargs))
        return await asyncio.wrap_future(self.lists.submit(whose_work(), call))

    async def run_password(
        self, account: Hashable, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run work that hashes a password. RateLimitedError where too much of it waits."""
        context = contextvars.copy_context()
        call = partial(context.run, partial(work, *args, **kwargs))
        return await asyncio.wrap_future(self.passwords.submit(account, call))

    async def run_heavy(self, account: Hashable, job: Callable[..., T], *arguments: Any) -> T:
        """Run a job of nodepool.heavy.jobs in a process. What it raises is told there."""
        return await asyncio.wrap_future(self.heavy.submit(account, job, *arguments))

    def close(self) -> None:
        self.health.close()
        if isinstance(self.clock, PoolClock):
            self.clock.close()
        self.events.close()
        self.heavy.close()
        self.passwords.close()
        self.lists.close()
        self.cheap.close()
        self.publisher.close()
        self.database.close()
        self.redis.close()


def build(settings: Settings, clock: Clock | None = None) -> Gateway:
    """Open everything, migrate the database, and make the secrets that are not set."""
    database = Database(settings.effective_database_url, patience_seconds=_DATABASE_PATIENCE_SECONDS)
    migrate(database)
    client = connect(settings)
    clock, registry = clock or PoolClock(BrokerTime(client)).start(), NodeRegistry(client)
    outputs = OutputStore(client, settings.max_live_output_bytes, settings.max_live_output_mb << 20)
    publisher = Publisher(make_app(settings, "gateway"))
    own_broker, (files, box), monitor = OwnBroker(database, client), _sealed(settings), MonitorWords(client)
    memory, cheap = MemoryBudget(settings.grpc_memory_mb << 20), _cheap(settings)
    return Gateway(
        settings=settings,
        database=database,
        redis=client,
        own_broker=own_broker,
        registry=registry,
        files=files,
        secret_box=box,
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
            lambda: files,
            monitor,
        ),
        tokens=Tokens.from_settings(settings, clock),
        standings=AccountStatuses(partial(_standing, database, cheap)),
        registered=RegisteredTokens(partial(_registered, database, registry, cheap)),
        events=EventHub(connect(settings)),
        clock=clock,
        outages=_own_outages(settings),
        unfinished=UnfinishedCounts(time.monotonic),
        claims=Claims(time.monotonic if isinstance(clock, PoolClock) else clock),
        memory=memory,
        reader=MessageReader(memory, settings.grpc_stall_seconds),
        addresses=ClientAddresses(settings),
        limits=RequestLimits(settings),
        refused=RefusedPackages(),
        health=PoolHealth(database, client, clock, own_broker.check),
        cheap=cheap,
        lists=ThreadLane("list", QueueBounds(width=_LISTS, of_one=1, waiting_of_one=200, waiting=5000)),
        passwords=ThreadLane("password", _bounds(settings.password_threads, 16, 200)),
        heavy=HeavyWork(settings.heavy_limits),
    )


def _cheap(settings: Settings) -> ThreadLane:
    return ThreadLane("use-case", _bounds(settings.grpc_threads, 200, 5000))


def _sealed(settings: Settings) -> tuple[FileStore, SecretBox]:
    """What is kept encrypted."""
    root, secret = settings.task_storage_path, settings.storage_key
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    return open_files(root, secret), open_secret_box(root, secret)


def _own_outages(settings: Settings) -> OwnOutages:
    """What an old agent, or an exclusive run, does not outlast is an outage."""
    half = settings.lease_seconds / 2
    return OwnOutages(steady_clock(), tolerated_seconds=half, still_seconds=half)


def _bounds(width: int, waiting_of_one: int, waiting: int) -> QueueBounds:
    """One account leaves room for others, and whatever it sends at once it has no more than its turn."""
    return QueueBounds(
        width=width, of_one=max(1, width * 3 // 4), waiting_of_one=waiting_of_one, waiting=waiting
    )


async def _standing(database: Database, cheap: ThreadLane, user_id: int) -> AccountStatus | None:
    ask = partial(database.read, partial(account_status, user_id=user_id))
    return await asyncio.wrap_future(cheap.submit(("account status", user_id), ask))


async def _registered(
    database: Database, registry: NodeRegistry, cheap: ThreadLane, identity: CallerIdentity
) -> TokenNode | None:
    def look() -> TokenNode | None:
        find = partial(
            node_store.pushed_with_token, owner_id=identity.user_id, token_sha256=identity.token_sha256
        )
        node_id = database.read(find)
        if node_id is None:
            return None
        try:
            return TokenNode(node_id, heard=registry.reports([node_id])[node_id] is not None)
        except UnavailableError:
            return TokenNode(node_id, heard=None)

    return await asyncio.wrap_future(cheap.submit(("registered token", identity.user_id), look))
