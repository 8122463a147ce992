"""Two gateways, two dispatchers, a broker with sentinels and PostgreSQL, all killed in turn under load.

What people see of it is a table: every call of the SDK is waited for 30 s at the most, and none may fail.
One part of each kind; KILL_ROUNDS is every part in every way, so many times, as `make long` has it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import text

from hivemind import NodePoolClient, OutputEvent, RetryPolicy
from nodepool.stores.redis.keys import SWEEPER
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.ledger.api import verify_database
from tests.support.postgres_server import PostgresServer
from tests.support.processes import TestProcess, open_folder
from tests.support.sentinel import SentinelBroker
from tests.support.several import SeveralOfEach
from worker_agent.trash import remove_tree

T = TypeVar("T")
ROUNDS = int(os.environ.get("KILL_ROUNDS", "0"))
USERS = 3 if ROUNDS else 2
USER_WAITS_SECONDS = 30.0
# Of the load's tasks, begun after a fault.
ENOUGH = 3 if ROUNDS else 1
LINES = 3
SAYS = f"""
import time
for number in range({LINES}):
    print("line", number, flush=True)
    time.sleep(0.3)
"""
SAID = "".join(f"line {number}\n" for number in range(LINES))


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    folder = open_folder()
    # Of two gateways and two dispatchers.
    made = PostgresServer(folder / "server", connections=100)
    made.start()
    yield made
    made.close()
    remove_tree(folder)


@pytest.fixture(scope="module")
def pool(database: PostgresServer) -> Iterator[SeveralOfEach]:
    made = SeveralOfEach(open_folder(), database, AUDIT_SHARE="0", PROBE_HOURS="0")
    try:
        made.start()
        yield made
        made.close()
    finally:
        made.kill_everything()
        remove_tree(made.folder)


@dataclass
class Row:
    """What people saw while one part was away, and until enough was done after it."""

    part: str
    calls: int = 0
    errors: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0
    finished: int = 0

    def __str__(self) -> str:
        counts = f"{self.calls:6} {len(self.errors):7} {self.slowest_seconds:8.1f} {self.finished:9}"
        return f"{self.part:34} {counts}"


class Load:
    """Users who submit, follow, fetch and pay, one thing after the other."""

    def __init__(self, pool: SeveralOfEach, folder: Path) -> None:
        self.row = Row("nothing")
        self.rows = [self.row]
        self.tasks: list[str] = []
        self.wrong: list[str] = []
        self.paid = 0
        self._pool, self._folder = pool, folder
        self._lock = threading.Lock()
        self._ends = threading.Event()
        (folder / "main.py").write_text(SAYS)
        self.receiver = pool.register_user().username
        self._users = [pool.register_user() for _ in range(USERS)]

    def begin(self, part: str) -> None:
        with self._lock:
            self.row = Row(part)
            self.rows.append(self.row)

    def end(self) -> None:
        self._ends.set()

    def work(self, number: int) -> None:
        user = self._users[number]
        patient = RetryPolicy(patience_seconds=USER_WAITS_SECONDS)
        with NodePoolClient(self._pool.addresses, token=user.token, retry=patient) as client:
            turn = 0
            while not self._ends.is_set():
                turn += 1
                self._turn(client, f"task-{number}-{turn}", f"{number}-{turn}")

    def _turn(self, client: NodePoolClient, task_id: str, name: str) -> None:
        began_in = self.row
        sent = self._call(lambda: client.submit(self._folder, task_id=task_id))
        if sent is None:
            return
        with self._lock:
            self.tasks.append(task_id)
        if self._call(lambda: client.transfer(self.receiver, 1, transfer_id=name)) is not None:
            self.paid += 1
        said = self._call(lambda: self._follow(client, task_id), waits=True)
        if said is not None and said != SAID:
            self.wrong.append(f"{task_id} said {said!r}")
        self._call(lambda: client.result(task_id, self._folder.parent / f"{task_id}.zip"))
        with self._lock:
            began_in.finished += said == SAID

    def pay_once(self, name: str) -> None:
        """As existing clients do, who try nothing again."""
        once = RetryPolicy(attempts=1)
        with NodePoolClient(self._pool.address, token=self._users[0].token, retry=once) as client:
            if self._call(lambda: client.transfer(self.receiver, 1, transfer_id=name)) is not None:
                self.paid += 1

    def _follow(self, client: NodePoolClient, task_id: str) -> str:
        data, state = b"", ""
        for event in client.watch(task_id):
            if isinstance(event, OutputEvent):
                data += event.data
            else:
                state = event.task.state
        return data.decode() if state == "SUCCEEDED" else f"ended {state}"

    def _call(self, call: Callable[[], T], *, waits: bool = False) -> T | None:
        """`waits`: for the task's own end, so that its time says nothing."""
        began, row = time.monotonic(), self.row
        problem, value = "", None
        try:
            value = call()
        except Exception as error:  # noqa: BLE001 - counted, told, and the test fails
            problem = f"{type(error).__name__}: {error}"
        seconds = 0.0 if waits else time.monotonic() - began
        with self._lock:
            row.calls += 1
            row.slowest_seconds = max(row.slowest_seconds, seconds)
            if problem:
                row.errors.append(problem)
        return value


def first_leads(pool: SeveralOfEach) -> object:
    """Its lock; the second must not be able to take it."""
    pool.valkey.admin.delete(SWEEPER)
    pool.wait(lambda: pool.valkey.admin.get(SWEEPER), "the first leads")
    return pool.valkey.admin.get(SWEEPER)


def faults(pool: SeveralOfEach, load: Load) -> Iterator[tuple[str, Callable[[], None]]]:
    """Each is over when it returns."""

    def killed(part: TestProcess) -> Callable[[], None]:
        def kill() -> None:
            part.kill()
            pool.revive(part)

        return kill

    def restarted() -> None:
        pool.second_gateway.stop()
        pool.revive(pool.second_gateway)

    def second_dispatcher_dies() -> None:
        """And the first one leads afterwards."""
        pool.second_dispatcher.kill()
        first_leads(pool)
        pool.second_dispatcher.start()

    def leader_stands_still() -> None:
        """For longer than its lock lasts. Which of the two leads is for chance until here."""
        pool.second_dispatcher.freeze()
        lock = first_leads(pool)
        pool.dispatcher.freeze()
        pool.second_dispatcher.thaw()
        pool.wait(lambda: pool.valkey.admin.get(SWEEPER) not in {lock, None}, "another leads")
        pool.dispatcher.thaw()

    def database_ends(number: signal.Signals) -> Callable[[], None]:
        def end() -> None:
            pool.database.end(number)
            with ThreadPoolExecutor(1) as threads:
                paying = threads.submit(load.pay_once, f"{number.name}-{len(load.rows)}")
                pool.database.start()
                paying.result(USER_WAITS_SECONDS)

        return end

    yield "gateway 1, kill -9", killed(pool.gateway)
    yield "dispatcher 1, stands still", leader_stands_still
    yield "PostgreSQL, kill -9", database_ends(signal.SIGKILL)
    if not ROUNDS:
        return
    yield "gateway 2, restart", restarted
    yield "dispatcher 2, kill -9", second_dispatcher_dies
    yield "dispatcher 1, kill -9", killed(pool.dispatcher)
    yield "PostgreSQL, restart (fast)", database_ends(signal.SIGINT)
    yield "PostgreSQL, immediate", database_ends(signal.SIGQUIT)
    yield "a sentinel, kill -9", lambda: sentinel_dies(pool)


def sentinel_dies(pool: SeveralOfEach) -> None:
    broker = pool.valkey
    assert isinstance(broker, SentinelBroker)
    broker.sentinels[2].kill()
    broker.sentinels[2].start()


def broker_fails_over(pool: SeveralOfEach) -> None:
    """Once: the master of before does not come back."""
    broker = pool.valkey
    assert isinstance(broker, SentinelBroker)
    before = broker.master
    broker.kill()
    pool.wait(lambda: broker.master is not before, "the sentinels have another master")


def judged(pool: SeveralOfEach, load: Load) -> dict[str, int]:
    database = Database(pool.database_url)
    try:
        rows = database.read(lambda c: c.execute(text("SELECT task_id, number, state FROM attempts")).all())
        ended = Counter(row.task_id for row in rows if row.state == "finished")
        payments = "SELECT task_id FROM ledger_entries WHERE kind = 'payment' AND task_id <> ''"
        paid = Counter(database.read(lambda c: c.execute(text(payments)).scalars().all()))
        query = "SELECT count(*) FROM ledger_entries WHERE kind = 'transfer'"
        transfers = database.read(lambda c: c.execute(text(query)).scalar_one())
        assert verify_database(database).problems == []
    finally:
        database.close()
    return {
        "lost": len(set(load.tasks) - set(ended)),
        "doubled": sum(count - 1 for count in ended.values()),
        "runs ended": sum(row.state == "lost" for row in rows),
        "paid twice": sum(count > 1 for count in paid.values()),
        "transfers too many": int(transfers) - load.paid,
    }


@pytest.mark.postgres
@pytest.mark.timeout(120 * ROUNDS + 300)
def test_whoever_waits_half_a_minute_sees_nothing_of_it(pool: SeveralOfEach, tmp_path: Path) -> None:
    folder = tmp_path / "task"
    folder.mkdir()
    load = Load(pool, folder)
    with ThreadPoolExecutor(USERS) as threads:
        working = [threads.submit(load.work, number) for number in range(USERS)]
        try:
            pool.wait(lambda: load.row.finished >= ENOUGH, "tasks are done")
            last = ("the broker's master, kill -9", lambda: broker_fails_over(pool))
            for part, fault in [*[*faults(pool, load)] * max(1, ROUNDS), last]:
                load.begin(part)
                fault()
                load.begin(f"  after it: {part.split(',')[0]}")
                pool.wait(lambda: load.row.finished >= ENOUGH, f"tasks are done after {part}", 90)
        finally:
            load.end()
        for it in working:
            it.result(timeout=90)
    verdict = judged(pool, load)
    print(f"\n{'part':34} {'calls':>6} {'errors':>7} {'slowest':>8} {'finished':>9}")
    print("\n".join(map(str, load.rows)))
    print(f"{len(load.tasks)} tasks: " + ", ".join(f"{name} {count}" for name, count in verdict.items()))
    assert [error for row in load.rows for error in row.errors] == []
    assert load.wrong == []
    assert set(verdict.values()) == {0}, verdict
