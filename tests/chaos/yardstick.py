"""The same plan and the same load on stock Celery: as many workers with as many places, the same broker.

Workers that end are started again, and its user sends a task again until it is accepted, as the pool's does.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from celery.exceptions import CeleryError
from kombu.exceptions import KombuError
from redis import RedisError

from tests.chaos import journal
from tests.chaos.celery_app import JOURNAL_VARIABLE, QUEUE, VISIBILITY_SECONDS, make_app
from tests.chaos.faults import Breaker
from tests.chaos.history import Call, History, Pause, Task
from tests.chaos.plan import REFERENCE_SECONDS, Need, Plan
from tests.chaos.program import Say, break_all
from tests.chaos.stage import AGENTS, SLOTS
from tests.chaos.workload import OUTSTANDING, RUN_SECONDS
from tests.support.environment import ROOT
from tests.support.processes import TestProcess
from tests.support.tcp_proxy import TcpProxy
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until

# What Celery has, too. Its lines are called as the pool's are: the client's, and the workers'.
PARTS = ("agent", "broker", "agents-broker", "client-gateway", "hints", "queues")
NEEDS = frozenset({Need.PROXIES, Need.ONE_BROKER})
_NOT_HERE = frozenset({"kill-ending", "full-disk", "clock"})
# Messages that were taken and not done come again after the visibility timeout, which is looked at so seldom.
_DRAIN_SECONDS = 60.0 + 3 * VISIBILITY_SECONDS
_AGAIN_SECONDS = 0.4
_PERIOD_SECONDS = 0.2
_PAUSE_SECONDS = 0.7
_WARM_TASKS = 8
# Longer than all that wait need in good times.
_LOST_SECONDS = 30.0


def applies(kind: str, part: str) -> bool:
    return part in PARTS and kind not in _NOT_HERE


class Worker(TestProcess):
    node_id: str


class CeleryStage:
    """A broker, its workers, and lines that can be broken; what faults are made on."""

    online_words: ClassVar = {"agent": " ready."}

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.valkey = TestValkey(folder / "valkey")
        self.lines = {name: TcpProxy(self.valkey.port) for name in ("agents-broker", "client-gateway")}
        self.away: set[str] = set()
        self.journal = folder / "journal"
        self.journal.touch()
        self.agents = [self._worker(f"worker{number}") for number in range(1, AGENTS + 1)]

    def url(self, line: str) -> str:
        return self.valkey.url.replace(f":{self.valkey.port}/", f":{self.lines[line].port}/")

    def _worker(self, name: str) -> Worker:
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(self.folder), "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT),
            "CHAOS_BROKER_URL": self.url("agents-broker"), JOURNAL_VARIABLE: str(self.journal),
        }  # fmt: skip
        argv = [
            sys.executable, "-P", "-W", "ignore", "-m", "celery", "-A", "tests.chaos.celery_app", "worker",
            "-c", str(SLOTS), "-n", name, "-l", "INFO", "--without-gossip", "--without-mingle",
        ]  # fmt: skip
        worker = Worker(name, argv, environment, self.folder, self.folder / f"{name}.log")
        worker.node_id = f"celery@{name}" if "@" not in name else name
        return worker

    def start(self) -> None:
        self.valkey.start()
        for worker in self.agents:
            worker.start()
        for worker in self.agents:
            worker.wait_for_line(" ready.")

    @contextlib.contextmanager
    def doubler(self) -> Iterator[Callable[[object], None]]:
        """Messages that wait are there twice."""
        admin = self.valkey.client()

        def again(_: object) -> None:
            for message in admin.lrange(QUEUE, 0, 2):
                admin.lpush(QUEUE, message)

        yield again

    def end(self) -> None:
        for worker in self.agents:
            if worker.is_running:
                worker.thaw()
                with contextlib.suppress(AssertionError):
                    worker.stop(10)
        self.valkey.close()
        for line in self.lines.values():
            line.close()


class CeleryLoad:
    """As the pool's user does: some tasks always wait, each is sent again until it is accepted."""

    def __init__(self, stage: CeleryStage, seed: int) -> None:
        self._app = make_app(stage.url("client-gateway"))
        self._dice, self._seed = random.Random(seed), seed
        self.accepted: dict[str, float] = {}
        self.results: dict[str, str] = {}
        self.ended: dict[str, float] = {}
        self.failed: dict[str, str] = {}
        self.calls: list[Call] = []
        self._ending, self._closing = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._send_all, self._fetch_all)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def outstanding(self) -> frozenset[str]:
        return frozenset(dict(self.accepted)) - frozenset(dict(self.ended))

    def stop_sending(self) -> None:
        self._ending.set()
        self._threads[0].join()

    def close(self) -> None:
        self._ending.set()
        self._closing.set()
        for thread in self._threads:
            thread.join()
        self._app.close()

    def _send_all(self) -> None:
        number = 0
        while not self._ending.is_set():
            # What is lost never ends, and the load goes on.
            lately = time.monotonic() - _LOST_SECONDS
            if sum(self.accepted[it] > lately for it in self.outstanding) >= OUTSTANDING:
                self._ending.wait(_PERIOD_SECONDS)
                continue
            number += 1
            self._send(f"chaos-{self._seed}-{number}", self._dice.uniform(*RUN_SECONDS))

    def _send(self, task_id: str, seconds: float) -> None:
        while not self._closing.is_set():
            sent = self._call(
                "send_task",
                lambda: self._app.send_task(
                    "chaos.work", args=[seconds], task_id=task_id, queue=QUEUE, retry=False
                ),
            )
            if sent is not None:
                self.accepted[task_id] = time.monotonic()
                return
            time.sleep(_AGAIN_SECONDS)

    def _fetch_all(self) -> None:
        while not self._closing.is_set():
            for task_id in sorted(self.outstanding):
                answer = self._call("result", lambda: self._app.backend.get_task_meta(task_id, cache=False))  # noqa: B023
                if answer is None:
                    time.sleep(_AGAIN_SECONDS)
                    break
                if answer["status"] == "SUCCESS":
                    self.results[task_id] = str(answer["result"])
                elif answer["status"] == "FAILURE":  # REVOKED is none: it was given back, and comes again
                    self.failed[task_id] = f"{answer['status']}: {answer['result']}"
                else:
                    continue
                self.ended[task_id] = time.monotonic()
            time.sleep(_PERIOD_SECONDS)

    def _call(self, name: str, send: Callable[[], Any]) -> Any:
        began = time.monotonic()
        try:
            answer = send()
        except (CeleryError, KombuError, RedisError, OSError) as error:
            self.calls.append(
                Call(name, began, time.monotonic(), "unreachable", f"{type(error).__name__}: {error}")
            )
            return None
        self.calls.append(Call(name, began, time.monotonic()))
        return answer


def run(plan: Plan, folder: Path, say: Say) -> History:
    stage = CeleryStage(folder)
    load = CeleryLoad(stage, plan.seed)
    looks: list[tuple[float, frozenset[str], frozenset[str]]] = []
    pauses: list[Pause] = []
    ending = threading.Event()
    watching = threading.Thread(target=_watch, args=(stage, load, looks, pauses, ending), daemon=True)
    try:
        stage.start()
        load.start()
        watching.start()
        wait_until(lambda: len(load.ended) >= _WARM_TASKS, "tasks come back", 120)
        began = time.monotonic()
        time.sleep(REFERENCE_SECONDS)
        reference_until = time.monotonic()
        faults, problems = break_all(plan, Breaker(stage, None), say)  # type: ignore[arg-type]
        calm_until = time.monotonic()
        load.stop_sending()
        say("no more tasks; those that are there come to their ends")
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not load.outstanding, "all have ended", _DRAIN_SECONDS, period=0.2)
    finally:
        ending.set()
        if watching.is_alive():
            watching.join()
        load.close()
        stage.end()
    found = journal.executions(stage.journal.read_text(encoding="ascii"))
    nodes = [worker.node_id for worker in stage.agents]
    return History(
        began=began,
        reference_until=reference_until,
        calm_until=calm_until,
        slots=dict.fromkeys(nodes, SLOTS),
        faults=tuple(faults),
        pauses=tuple(pauses),
        samples=journal.samples_of(looks, found, nodes),
        tasks=_tasks(load, journal.tokens_of(found)),
        runs=journal.runs_of(found),
        calls=tuple(load.calls),
        leftovers=tuple(problems),
    )


def _watch(
    stage: CeleryStage, load: CeleryLoad, looks: list[Any], pauses: list[Pause], ending: threading.Event
) -> None:
    nodes, last = frozenset(it.node_id for it in stage.agents), time.monotonic()
    while not ending.wait(_PERIOD_SECONDS):
        now = time.monotonic()
        if now - last > _PERIOD_SECONDS + _PAUSE_SECONDS:
            pauses.append(Pause(last, now))
        # As a supervisor does; a worker that hangs it cannot see.
        for worker in stage.agents:
            if not worker.is_running and worker.node_id not in stage.away and not ending.is_set():
                worker.start()
        looks.append((now, load.outstanding, nodes - frozenset(stage.away)))
        last = now


def _tasks(load: CeleryLoad, tokens: Any) -> tuple[Task, ...]:
    found = []
    for task_id, accepted in load.accepted.items():
        state = "SUCCEEDED" if task_id in load.results else "FAILED" if task_id in load.failed else "PENDING"
        found.append(
            Task(
                task_id=task_id,
                accepted=accepted,
                state=state,
                ended=load.ended.get(task_id),
                output_token=tokens.get(task_id, ""),
                result_token=load.results.get(task_id, ""),
                ends=(state,) if task_id in load.ended else (),
            )
        )
    return tuple(found)
