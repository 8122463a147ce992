"""Serves /metrics of one process over HTTP: few threads, short patience, nothing but GET.

Whoever can reach the port can read it, so it listens on loopback unless the operator says otherwise, and
nothing that it shows names a user, a node or a task. A port that is taken stops no part of the pool: it is
said, and tried again.
"""

from __future__ import annotations

import logging
import platform
import socket
import sys
import threading
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from nodepool.metrics import catalogue
from nodepool.metrics.catalogue import Part

log = logging.getLogger(__name__)

PATH = "/metrics"
# At once; who comes when all are busy waits in the listening socket's queue.
_THREADS = 4
_WAITING = 16
_PATIENCE_SECONDS = 5.0
_LONGEST_SECONDS = 15.0
_LOOK_SECONDS = 1.0
_TRY_AGAIN_SECONDS = 10.0
_DISTRIBUTION = "hivemind-nodepool"


def registry_of(part: Part, *collectors: Collector) -> CollectorRegistry:
    """What a part's /metrics shows: what it counts, what is sampled for it, and its process."""
    registry = CollectorRegistry()
    for entry in catalogue.entries():
        if part in entry.parts and entry.collector is not None:
            registry.register(entry.collector)
    for collector in collectors:
        registry.register(collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    catalogue.build_info.labels(part, _version()).set(1)
    return registry


def _version() -> str:
    try:
        return metadata.version(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return f"unknown ({platform.python_implementation()})"


class _Handler(BaseHTTPRequestHandler):
    """One request a connection."""

    server: _Server
    timeout = _PATIENCE_SECONDS

    def setup(self) -> None:
        super().setup()
        # The patience is for one piece of it; who sends a byte now and then is ended all the same.
        self._deadline = threading.Timer(_LONGEST_SECONDS, _break_off, (self.connection,))
        self._deadline.daemon = True
        self._deadline.start()

    def finish(self) -> None:
        self._deadline.cancel()
        super().finish()

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != PATH:
            self.send_error(HTTPStatus.NOT_FOUND, f"only {PATH} is here")
            return
        encode, content_type = choose_encoder(self.headers.get("Accept") or "")
        body = encode(self.server.registry)
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Scrapes are no news."""


def _break_off(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Server(HTTPServer):
    request_queue_size = _WAITING

    def __init__(self, address: tuple[str, int], registry: CollectorRegistry) -> None:
        self.registry = registry
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002
        log.debug("a scrape broke off: %r", sys.exception())


class MetricsServer:
    """Listens from `start` to `close`; port 0 means that nothing is served."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        self._host, self._port, self._registry = host.strip("[]"), port, registry
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        if self._port:
            self._thread.start()

    def close(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        told = False
        while not self._stopped.is_set():
            try:
                server = _Server((self._host, self._port), self._registry)
            except OSError as error:
                if not told:
                    told = True
                    log.error(
                        "metrics cannot be served on %s:%d (%s): stop what listens there, or set another "
                        "port; it is tried again every %g s",
                        self._host,
                        self._port,
                        error.strerror or error,
                        _TRY_AGAIN_SECONDS,
                    )
                self._stopped.wait(_TRY_AGAIN_SECONDS)
                continue
            log.info("metrics are served on http://%s:%d%s", self._host, self._port, PATH)
            self._serve(server)
            return

    def _serve(self, server: _Server) -> None:
        """Each thread accepts for itself, so there are never more than these."""
        server.timeout = _LOOK_SECONDS
        server.socket.settimeout(_LOOK_SECONDS)
        threads = [
            threading.Thread(target=self._accept, args=(server,), name=f"metrics {number}", daemon=True)
            for number in range(1, _THREADS)
        ]
        for thread in threads:
            thread.start()
        self._accept(server)
        server.server_close()

    def _accept(self, server: _Server) -> None:
        while not self._stopped.is_set():
            server.handle_request()
