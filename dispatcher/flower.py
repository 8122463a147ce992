"""Flower on the pool: a window on queues and workers, never a record. `python -m dispatcher.flower`.

Flower learns a worker's queues by asking it over remote control. Agents run on other people's
machines and have that turned off, so what Flower shows of them is read off their events; commands
go to the pool's own dispatchers only. What is believed of an event stands in domain/nodes/worker_events.py,
and how it gets here in monitor_events.py.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

from celery import Celery
from flower.app import Flower
from flower.command import apply_env_options, extract_settings
from flower.inspector import Inspector
from flower.options import options
from flower.urls import settings
from flower.views.monitor import Metrics
from tornado.ioloop import IOLoop, PeriodicCallback
from tornado.web import authenticated

from dispatcher.app import app, settings as pool_settings
from dispatcher.flower_events import PoolEvents
from dispatcher.flower_truth import AGENT_PREFIX
from nodepool import hardening
from nodepool.domain.errors import InvalidInputError, NodePoolError
from nodepool.domain.ids import check_node_id
from nodepool.domain.nodes.worker_events import AGENT_TASKS
from nodepool.memory_limit import MemoryLimit
from nodepool.stores.redis import certificates
from nodepool.stores.redis.client import Client, connect

DISPATCHER_PREFIX = "dispatcher@"
DEFAULT_PORT = 5555
MEMORY_PERIOD_SECONDS = 1.0
MAX_TASKS = 10_000
WATCH_PERIOD_SECONDS = 0.5
ASK_PERIOD_SECONDS = 2.0

logger = logging.getLogger(__name__)


def agent_node(hostname: str) -> str:
    """The node id of an agent's worker name; empty for other workers and for names that cannot be."""
    if not hostname.startswith(AGENT_PREFIX):
        return ""
    try:
        return check_node_id(hostname.removeprefix(AGENT_PREFIX))
    except InvalidInputError:
        return ""


def agent_info(node_id: str, worker: Any, now: float) -> dict[str, Any]:
    """What Flower shows of an agent, in the shape of a worker's own answers. `now` is Unix seconds."""
    queue = f"node.{node_id}"
    return {
        "active_queues": [
            {
                "name": queue,
                "exchange": {"name": "", "type": "direct"},
                "routing_key": queue,
                "durable": True,
                "exclusive": False,
                "auto_delete": False,
                "no_ack": False,
                "alias": None,
                "bindings": [],
                "binding_arguments": None,
                "queue_arguments": None,
            }
        ],
        "registered": list(AGENT_TASKS),
        "stats": {
            "pid": worker.pid,
            "clock": str(worker.clock),
            "broker": {},
            "pool": {},
            "prefetch_count": None,
            "total": {"all tasks": worker.processed or 0},
            "running": worker.active or 0,
            "load": list(worker.loadavg or ()),
            "software": f"{worker.sw_ident or ''} {worker.sw_ver or ''}".strip(),
        },
        "active": [],
        "scheduled": [],
        "reserved": [],
        "revoked": [],
        "conf": {},
        "timestamp": now,
    }


class PoolInspector(Inspector):  # type: ignore[misc] # flower has no types
    """Asks dispatchers; reads agents off the events. Lives in the event loop's thread."""

    def __init__(self, io_loop: IOLoop, capp: Celery, timeout: float, seen: Mapping[str, Any]) -> None:
        super().__init__(io_loop, capp, timeout)
        self._seen = seen
        self._asked_at = float("-inf")

    def inspect(self, workername: str | None = None) -> asyncio.Future[None]:
        if workername is not None and workername.startswith(AGENT_PREFIX):
            self.watch()
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done
        future: asyncio.Future[None] = super().inspect(workername)
        return future

    def watch(self) -> None:
        """Agents as their events tell, the dead forgotten, and dispatchers that came since asked."""
        unknown = False
        for name, worker in list(self._seen.items()):
            node_id = agent_node(name)
            if not worker.alive:
                self.workers.pop(name, None)
            elif node_id:
                self.workers[name] = agent_info(node_id, worker, time.time())
            elif name.startswith(DISPATCHER_PREFIX):
                # Flower's own shape is a defaultdict: asking with [] would make an entry.
                unknown = unknown or "active_queues" not in self.workers.get(name, {})
        now = time.monotonic()
        if unknown and now - self._asked_at >= ASK_PERIOD_SECONDS:
            self._asked_at = now
            super().inspect(None)


class GuardedMetrics(Metrics):  # type: ignore[misc] # flower has no types
    """Flower leaves /metrics open; it names nodes and tasks, so here it asks for the password too."""

    @authenticated
    async def get(self) -> None:
        await super().get()


def build(capp: Celery, client: Client) -> Flower:
    """Flower on this Celery application with the options that are set by now."""
    extract_settings()
    loop = IOLoop.current()
    events = PoolEvents(
        client,
        capp,
        loop,
        max_workers_in_memory=options.max_workers,
        max_tasks_in_memory=options.max_tasks,
    )
    monitor = Flower(capp=capp, options=options, events=events, io_loop=loop, **settings)
    inspector = PoolInspector(loop, capp, options.inspect_timeout / 1000.0, events.state.workers)
    monitor.inspector = inspector
    events.on_forget = lambda name: inspector.workers.pop(name, None)
    monitor.add_handlers(".*", [(r"/metrics", GuardedMetrics)])
    return monitor


def main(argv: list[str] | None = None) -> int:
    hardening.harden()
    os.umask(0o077)
    parser = argparse.ArgumentParser(prog="python -m dispatcher.flower", description="Flower on the pool")
    parser.add_argument("--address", default="127.0.0.1", help="address to listen on (default: loopback)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT)
    parser.add_argument("--max-tasks", type=int, default=MAX_TASKS, help="most tasks kept in memory")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # Every request would be a line otherwise.
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    apply_env_options()
    if not any(":" in pair and not pair.endswith(":") for pair in options.basic_auth or ()):
        print("FLOWER_BASIC_AUTH must be set to user:password", file=sys.stderr)
        return 2
    options.address, options.port = arguments.address, arguments.port
    options.max_tasks = arguments.max_tasks
    # A window, not a control desk: no shutdown, no revoke, no tasks sent from the browser.
    options.read_only = True
    # Dispatchers and agents send events from their start; nobody has to be told to.
    options.enable_events = False
    os.environ.pop("FLOWER_UNAUTHENTICATED_API", None)
    pool = pool_settings()
    memory = MemoryLimit(pool.flower_memory_mb << 20, "FLOWER_MEMORY_MB")
    memory.set()
    client = connect(pool)
    try:
        certificates.check(client, pool)
    except NodePoolError as error:
        print(f"flower: cannot start: {error}", file=sys.stderr)
        return 1
    monitor = build(app, client)
    hardening.forget_secrets()
    loop = monitor.io_loop
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.add_callback_from_signal(monitor.stop))
    port = monitor.start_http_server()
    PeriodicCallback(monitor.inspector.watch, WATCH_PERIOD_SECONDS * 1000).start()
    PeriodicCallback(memory.look, MEMORY_PERIOD_SECONDS * 1000).start()
    logger.info("Flower listens on http://%s:%s", arguments.address, port)
    monitor.start()
    return 0


if __name__ == "__main__":
    sys.exit(main())
