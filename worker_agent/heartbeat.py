"""The agent's report to the pool, and its reading of what the pool has assigned to it.

A thread of its own with a connection of its own, outside Celery: Celery's own parts stop before the
last run has ended. One of the two files of the agent that know the broker.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import redis
import structlog

from nodepool import keepalive
from nodepool.broker_errors import not_trusted_words, tls_problem
from nodepool.domain import broker_address
from nodepool.domain.broker_address import BrokerTrust, tls_options
from nodepool.domain.errors import BrokerNotTrustedError
from nodepool.domain.nodes.report_interval import read_pace
from worker_agent.output_stream import monotonic_seconds
from worker_agent.state import Allocation, AssignedListing

log = structlog.get_logger(__name__)

REPORT_LIFE_SECONDS = 60
BROKER_NAME = "the pool's broker"
# How often one that does not trust the broker asks the pool for the authority of its certificate.
_AUTHORITY_SECONDS = 60.0
_CALL_SECONDS = 3.0
_JITTER = 0.1
# More than a node can hold is not read.
_MAX_ASSIGNED = 10_000
# What the broker says when it does not know the agent's user any more.
_OF_THIS_AGENT = (redis.AuthenticationError, redis.exceptions.NoPermissionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatOptions:
    """Where on the broker the node reports and reads. `url` has the agent's own user in it."""

    url: str
    ca_pem: str = ""  # what the broker's certificate is checked with; empty: what the system trusts
    report_key: str
    assigned_key: str
    pace_key: str  # empty: the pool is older and keeps to the first period
    period_seconds: float
    lease_seconds: float


class Heartbeat:
    """`collect` gives the report, `on_assigned` gets what is assigned, by attempt id, and when the report was
    sent, `on_pace` the period from now on, whenever the pool has changed it. `elsewhere` gets the reports
    that the broker did not take; it may block for a few seconds.

    `on_rejected` is called when the broker does not know the agent's user any more; it may block,
    and returns the board to go on with. `on_silent` is called when the line to the broker has gone dead:
    others to it have, too, most likely.
    """

    def __init__(
        self,
        board: HeartbeatOptions,
        collect: Callable[[], Mapping[str, Any]],
        on_assigned: Callable[[Mapping[str, AssignedListing], float], None],
        on_rejected: Callable[[], HeartbeatOptions | None],
        on_pace: Callable[[float], None],
        elsewhere: Callable[[bytes], None],
        on_silent: Callable[[], None] = lambda: None,
    ) -> None:
        self._board = board
        self._period_seconds = board.period_seconds
        self._collect = collect
        self._on_assigned = on_assigned
        self._on_rejected = on_rejected
        self._on_pace = on_pace
        self._elsewhere = elsewhere
        self._on_silent = on_silent
        self._ending = threading.Event()
        self._client = _connect(board)
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._failing = False
        self._asked_at = float("-inf")
        self._refused = False
        self.reported = threading.Event()

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """At most the time of one call to the broker."""
        self._ending.set()
        self._thread.join(2 * _CALL_SECONDS)
        self._client.close()

    def _run(self) -> None:
        while not self._ending.is_set():
            self._beat()
            self._ending.wait(self._period_seconds * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311

    def _beat(self) -> None:
        try:
            report = json.dumps(self._collect(), separators=(",", ":"))
            if not self._told_broker(report):
                self._elsewhere(report.encode())
        except Exception:
            # Whatever it is, a silent agent would lose all its runs.
            log.exception("the report failed", action="report.broken")

    def _told_broker(self, report: str) -> bool:
        sent_at = monotonic_seconds()
        try:
            assigned, pace = self._exchange(report)
        except _OF_THIS_AGENT as error:
            log.warning(
                "the broker does not know this agent any more", action="report.rejected", why=str(error)
            )
            self._reconnect()
        except (redis.RedisError, OSError) as error:
            if reason := tls_problem(error):
                self._not_trusted(reason)
            elif not self._failing:
                log.warning("the report cannot be written", action="report.failed", why=str(error))
                if isinstance(error, (redis.TimeoutError, TimeoutError)):
                    self._on_silent()
            self._failing = True
        else:
            if self._failing:
                log.info("reports are written again", action="report.recovered")
            self._failing = False
            if not self._refused:
                self.reported.set()
            self._follow(pace)
            self._on_assigned(assigned, sent_at)
            return True
        return False

    def _not_trusted(self, reason: str) -> None:
        """The pool may have a new authority by now, and says so to whoever enrols."""
        now = time.monotonic()
        if now - self._asked_at < _AUTHORITY_SECONDS:
            return
        self._asked_at = now
        words = not_trusted_words(_shown(self._board), reason)
        log.error("the broker is not trusted", action="report.untrusted", why=words)
        self._reconnect()

    def _exchange(self, report: str) -> tuple[dict[str, AssignedListing], str | None]:
        # One round trip, no transaction: these have nothing to do with each other.
        with self._client.pipeline(transaction=False) as pipe:
            pipe.set(self._board.report_key, report, ex=REPORT_LIFE_SECONDS)
            pipe.hgetall(self._board.assigned_key)
            if self._board.pace_key:
                pipe.get(self._board.pace_key)
            written, raw, *pace = pipe.execute(raise_on_error=False)
        if isinstance(raw, Exception):
            raise raw
        self._note_report(written)
        said = pace[0] if pace and not isinstance(pace[0], Exception) else None
        return parse_assigned(raw), said

    def _note_report(self, written: object) -> None:
        """Raises what the broker says of this agent. A broker that is full, or cannot write to its disk, is
        there all the same: what is assigned can be read, and runs go on."""
        if not isinstance(written, Exception):
            if self._refused:
                log.info("the broker takes reports again", action="report.taken")
            self._refused = False
        elif not isinstance(written, redis.ResponseError) or isinstance(written, _OF_THIS_AGENT):
            raise written
        else:
            if not self._refused:
                self._refused = True
                log.warning("the broker takes no reports just now", action="report.refused", why=str(written))
            # The last report stays, as if it had come just now: that needs no memory. Where this agent's user
            # was made by a pool that did not allow it, the pool frees its broker in time, or knows why nobody
            # is heard.
            with contextlib.suppress(redis.ResponseError):
                self._client.expire(self._board.report_key, REPORT_LIFE_SECONDS)

    def _follow(self, pace: str | None) -> None:
        seconds = read_pace(pace, lease_seconds=self._board.lease_seconds)
        if seconds is not None and seconds != self._period_seconds:
            log.debug("the pool has another pace", action="report.pace", period_seconds=seconds)
            self._period_seconds = seconds
            self._on_pace(seconds)

    def _reconnect(self) -> None:
        board = self._on_rejected()
        if board is not None:
            self._client.close()
            self._board = board
            self._period_seconds = board.period_seconds
            self._client = _connect(board)


def check_broker(board: HeartbeatOptions) -> None:
    """Raises BrokerNotTrustedError where TLS with the broker fails. Whether it is there is not asked."""
    client = _connect(board)
    try:
        client.ping()
    except (redis.RedisError, OSError) as error:
        if reason := tls_problem(error):
            raise BrokerNotTrustedError(not_trusted_words(_shown(board), reason)) from error
    finally:
        client.close()


def _shown(board: HeartbeatOptions) -> str:
    return broker_address.parse(board.url, BROKER_NAME).shown


def _connect(board: HeartbeatOptions) -> redis.Redis:
    address = broker_address.parse(board.url, BROKER_NAME)
    return redis.Redis.from_url(
        board.url,
        **tls_options(address, BrokerTrust(ca_pem=board.ca_pem)),
        decode_responses=True,
        protocol=2,
        socket_timeout=_CALL_SECONDS,
        socket_connect_timeout=_CALL_SECONDS,
        socket_keepalive=True,
        socket_keepalive_options=keepalive.tcp_options(),
        single_connection_client=False,
        max_connections=1,
        lib_name=None,
        lib_version=None,
    )


def parse_assigned(raw: Mapping[str, str]) -> dict[str, AssignedListing]:
    return {attempt_id: _listing(text) for attempt_id, text in list(raw.items())[:_MAX_ASSIGNED]}


def _listing(text: str) -> AssignedListing:
    """Whatever it says, the attempt is listed: not listed would end its run."""
    try:
        entry = json.loads(text)
        stop = bool(entry.get("stop"))
    except (ValueError, AttributeError):
        return AssignedListing()
    try:
        claim = entry["claim"]
        return AssignedListing(stop, Allocation(int(claim["memory_mb"]), int(claim["cpu_score"])))
    except (ValueError, KeyError, TypeError, OverflowError):
        return AssignedListing(stop)
