"""How each kind of fault is made, and mended: a context for each, within which the thing is broken."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import redis

from nodepool.stores.redis import keys
from tests.chaos.plan import JUMPS, PlannedFault
from tests.chaos.stage import Stage
from tests.chaos.watch import Watch
from tests.support.pool import TestAgent
from tests.support.postgres_server import MOST_CONNECTIONS
from tests.support.processes import TestProcess
from tests.support.sentinel import SentinelBroker
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until

Broken = contextlib.AbstractContextManager[None]
_BACK_SECONDS = 60.0
_POKE_SECONDS = 0.05


class Breaker:
    """Makes the faults of a plan on one stage."""

    def __init__(self, stage: Stage, watch: Watch) -> None:
        self._stage, self._watch = stage, watch

    def blamed(self, fault: PlannedFault) -> str:
        """The node that fails itself, if one does."""
        return self.agent(fault).node_id if fault.part == "agent" and fault.kind not in _BLAMELESS else ""

    def agent(self, fault: PlannedFault) -> TestAgent:
        return self._stage.agents[int(fault.parameters["which"] * len(self._stage.agents))]

    def broken(self, fault: PlannedFault) -> Broken:
        """Within it the fault is there; when it is left everything is whole again."""
        make: Callable[[Stage, Breaker, PlannedFault], Iterator[None]] = _MAKERS[fault.kind]
        return contextlib.contextmanager(make)(self._stage, self, fault)

    @property
    def watch(self) -> Watch:
        return self._watch


_BLAMELESS = frozenset({"clock"})


# -- processes ---------------------------------------------------------------------------------------------
def _kill(stage: Stage, breaker: Breaker, fault: PlannedFault) -> Iterator[None]:
    parts = ("broker", "gateway", "dispatcher") if fault.part == "pool" else (fault.part,)
    with contextlib.ExitStack() as stack:
        # Started in this order, and so killed in the other one.
        for part in reversed(parts):
            stack.enter_context(_killed(stage, breaker, fault, part))
        yield


@contextlib.contextmanager
def _killed(stage: Stage, breaker: Breaker, fault: PlannedFault, part: str) -> Iterator[None]:
    if part == "broker":
        stage.valkey.kill()
        yield
        stage.valkey.restart()
    elif part == "database":
        assert stage.postgres
        stage.postgres.kill()
        yield
        stage.postgres.start()
    else:
        process = breaker.agent(fault) if part == "agent" else getattr(stage, part)
        with _away(stage, process):
            process.kill()
            yield
            word = stage.online_words[part]
            said = process.log().count(word)
            process.start()
            wait_until(lambda: process.log().count(word) > said, f"{process.name} is back", _BACK_SECONDS)


@contextlib.contextmanager
def _away(stage: Stage, process: TestProcess) -> Iterator[None]:
    node_id = getattr(process, "node_id", "")
    stage.away.add(node_id)
    try:
        yield
    finally:
        stage.away.discard(node_id)


def _stop(stage: Stage, breaker: Breaker, fault: PlannedFault) -> Iterator[None]:
    if fault.part == "broker":
        stopped: list[object] = [stage.valkey]
    elif fault.part == "database":
        stopped = [stage.postgres]
    elif fault.part == "pool":
        stopped = [stage.dispatcher, stage.gateway, stage.valkey]
    else:
        stopped = [breaker.agent(fault) if fault.part == "agent" else getattr(stage, fault.part)]
    first = stopped[0]
    with _away(stage, first) if isinstance(first, TestProcess) else contextlib.nullcontext():
        for part in stopped:
            part.freeze()  # type: ignore[attr-defined]
        try:
            yield
        finally:
            for part in reversed(stopped):
                part.thaw()  # type: ignore[attr-defined]


def _kill_ending(stage: Stage, breaker: Breaker, fault: PlannedFault) -> Iterator[None]:
    """While a run that has just ended is packed and told of."""
    node_id = breaker.agent(fault).node_id

    def ours() -> set[str]:
        return {it for it, node in breaker.watch.running.items() if node == node_id}

    before = ours()
    deadline = time.monotonic() + _BACK_SECONDS / 4
    while before <= ours() and time.monotonic() < deadline:
        before |= ours()
        time.sleep(_POKE_SECONDS / 5)
    with _killed(stage, breaker, fault, "agent"):
        yield


# -- lines -------------------------------------------------------------------------------------------------
def _line(stage: Stage, fault: PlannedFault) -> TcpProxy:
    return stage.lines[fault.part]


def _line_mode(change: Callable[[TcpProxy, PlannedFault], None]) -> Callable[..., Iterator[None]]:
    def make(stage: Stage, _breaker: Breaker, fault: PlannedFault) -> Iterator[None]:
        line = _line(stage, fault)
        change(line, fault)
        try:
            yield
        finally:
            line.forward()
            line.delay_seconds = line.jitter_seconds = line.bytes_per_second = 0.0

    return make


def _delay(line: TcpProxy, fault: PlannedFault) -> None:
    line.delay_seconds = fault.parameters["milliseconds"] / 2000
    line.jitter_seconds = fault.parameters["jitter"] / 1000


def _narrow(line: TcpProxy, fault: PlannedFault) -> None:
    line.bytes_per_second = fault.parameters["bytes_per_second"]


# -- the broker's memory -----------------------------------------------------------------------------------
def _flushall(stage: Stage, _breaker: Breaker, _fault: PlannedFault) -> Iterator[None]:
    stage.valkey.admin.flushall()
    yield


def _keys(stage: Stage, _breaker: Breaker, fault: PlannedFault) -> Iterator[None]:
    made: dict[str, Callable[[str], str]] = {
        "reservations": keys.reserved, "reports": keys.report, "assignments": keys.assigned,
        "facts": keys.facts,
    }  # fmt: skip
    admin = stage.valkey.admin
    if fault.part in made:
        names = [made[fault.part](agent.node_id) for agent in stage.agents]
    elif fault.part == "windows":
        names = [str(it) for pattern in ("attempt:*", "outputs:*") for it in admin.scan_iter(pattern)]
    else:
        names = _queues(admin)
    if names:
        admin.delete(*names)
    yield


def _queues(admin: redis.Redis) -> list[str]:
    patterns = ("node.*", "high.*", "normal.*", "low.*")
    return [str(it) for pattern in patterns for it in admin.scan_iter(pattern)]


def _full_broker(stage: Stage, _breaker: Breaker, _fault: PlannedFault) -> Iterator[None]:
    admin = stage.valkey.admin
    before = admin.config_get("maxmemory")["maxmemory"]
    admin.config_set("maxmemory", max(1, int(admin.info("memory")["used_memory"]) - (1 << 16)))
    try:
        yield
    finally:
        admin.config_set("maxmemory", before)


def _failover(stage: Stage, _breaker: Breaker, _fault: PlannedFault) -> Iterator[None]:
    """Over when there is a new master; the old one comes back as its replica."""
    broker = stage.valkey
    assert isinstance(broker, SentinelBroker)
    old = broker.master
    old.kill()
    wait_until(lambda: broker.master is not old and broker.master.admin.ping(), "another is master")
    yield
    old.start()
    broker.await_watched()


# -- messages ----------------------------------------------------------------------------------------------
def _doubled(stage: Stage, breaker: Breaker, _fault: PlannedFault) -> Iterator[None]:
    with stage.doubler() as publisher, _repeated(lambda: publisher(breaker.watch), 0.3):
        yield


def _dropped(stage: Stage, _breaker: Breaker, _fault: PlannedFault) -> Iterator[None]:
    """A thief at the queues, faster than most who wait there."""
    admin = stage.valkey.client()

    def take() -> None:
        if found := _queues(admin):
            admin.delete(*found)

    with _repeated(take, 0.002):
        yield


@contextlib.contextmanager
def _repeated(act: Callable[[], None], period: float) -> Iterator[None]:
    ending = threading.Event()

    def loop() -> None:
        while not ending.wait(period):
            act()

    thread = threading.Thread(target=loop, name="repeated-fault", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


# -- disks -------------------------------------------------------------------------------------------------
def _full_disk(stage: Stage, breaker: Breaker, fault: PlannedFault) -> Iterator[None]:
    folder = stage.folder / (breaker.agent(fault).name if fault.part == "agent" else "storage")
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(1 << 12))
    try:
        yield
    finally:
        ballast.unlink()


# -- the database ------------------------------------------------------------------------------------------
def _sessions_ended(stage: Stage, _breaker: Breaker, _fault: PlannedFault) -> Iterator[None]:
    assert stage.postgres
    with stage.postgres.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
    yield


def _no_connections(stage: Stage, breaker: Breaker, fault: PlannedFault) -> Iterator[None]:
    """Who has one keeps it until somebody ends it: here everybody's is ended and taken."""
    assert stage.postgres
    taken: list[psycopg.Connection] = []
    for _ in _sessions_ended(stage, breaker, fault):
        with contextlib.suppress(psycopg.OperationalError):
            while len(taken) < MOST_CONNECTIONS:
                taken.append(stage.postgres.connect())
    try:
        yield
    finally:
        for connection in taken:
            connection.close()


# -- clocks ------------------------------------------------------------------------------------------------
def _clock(stage: Stage, _breaker: Breaker, fault: PlannedFault) -> Iterator[None]:
    """It jumps, and jumps back."""
    file = stage.clock_file(fault.part)
    file.write_text(f"{JUMPS[int(fault.parameters['jump'])]:+.0f}\n")
    try:
        yield
    finally:
        file.write_text("+0\n")


_MAKERS: dict[str, Callable[..., Iterator[None]]] = {
    "kill": _kill,
    "stop": _stop,
    "kill-ending": _kill_ending,
    "reset": _line_mode(lambda line, _: line.reset_lines()),
    "refused": _line_mode(lambda line, _: line.refuse()),
    "frozen": _line_mode(lambda line, _: line.freeze()),
    "black-hole": _line_mode(lambda line, _: line.black_hole()),
    "one-way": _line_mode(lambda line, it: line.lose_one_way(answers=it.parameters["answers"] > 0.5)),
    "dead": _line_mode(lambda line, _: line.kill_lines()),
    "delay": _line_mode(_delay),
    "narrow": _line_mode(_narrow),
    "flushall": _flushall,
    "keys": _keys,
    "doubled": _doubled,
    "dropped": _dropped,
    "full-disk": _full_disk,
    "full-broker": _full_broker,
    "sessions-ended": _sessions_ended,
    "no-connections": _no_connections,
    "failover": _failover,
    "clock": _clock,
}
