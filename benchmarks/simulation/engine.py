"""(1) One dispatcher's engine in this process, on a real Valkey and a real database.

Three things are measured. *Placing with the reservation*: everybody waits in the queue; the planner
decides and every decision is reserved in Redis, round by round as the placement loop does it; nothing else.
*Placing with SQL*: the placement loop itself, from the hints to the messages in the nodes' queues, every
placement committed.
*One decision*: single tasks come one at a time to the placement loop of a fleet that is partly full.
"""

from __future__ import annotations

import gc
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from benchmarks.figures import Spread, spread
from benchmarks.pool import BenchmarkError
from benchmarks.simulation.stage import Stage
from benchmarks.simulation.watching import watched
from benchmarks.simulation.workload import Workload
from dispatcher.placing.fleet_mirror import FleetMirror
from dispatcher.placing.placement_loop import PlacementLoop
from nodepool.domain.ids import attempt_id
from nodepool.domain.scheduling.fair_share import cost_per_minute
from nodepool.domain.scheduling.fleet import Fleet
from nodepool.domain.scheduling.planner import Planned, Planner
from nodepool.domain.scheduling.request import request_of, waiting_task
from nodepool.domain.scheduling.wait_queue import Ageing, WaitingTask
from nodepool.messaging.names import node_queue
from nodepool.stores.redis.node_registry import RegistryAnswer, Reservation
from nodepool.stores.sql import placements as placing
from nodepool.stores.sql.tables import attempts

# As the placement loop has it.
ROUND = 500
_MOST_ARRIVAL_SECONDS = 6.0
_ARRIVALS_PER_SECOND = 100.0
_DISTINCT_TASKS = 3000
_PATIENCE_SECONDS = 10.0
_MILLISECONDS = 1e3


@dataclass(frozen=True, slots=True, kw_only=True)
class Placing:
    """Tasks placed in one go."""

    placed: int
    left: int
    refused: int
    requirements: int
    seconds: float
    cpu_seconds: float  # of this process, which other processes of the machine slow down less
    parts: dict[str, float]  # seconds

    @property
    def per_second(self) -> float:
        return self.placed / self.seconds if self.seconds else 0.0

    @property
    def microseconds_each(self) -> float:
        return 1e6 * self.seconds / self.placed if self.placed else 0.0

    @property
    def cpu_microseconds_each(self) -> float:
        return 1e6 * self.cpu_seconds / self.placed if self.placed else 0.0


def place_reserving(stage: Stage, task_ids: Sequence[str]) -> Placing:
    """The line, the planner and the atomic reservation. SQL is only read, before the clock starts."""
    dispatcher, settings = stage.dispatcher, stage.settings
    units: dict[int, float] = {}
    heard: Counter[RegistryAnswer] = Counter()

    def charge(task: WaitingTask) -> None:
        units[task.owner_id] = units.get(task.owner_id, 0.0) + cost_per_minute(task.requirements.claim)

    ageing = Ageing(
        settings.tier_ageing_seconds, settings.priority_ageing_seconds, settings.region_patience_seconds
    )
    planner = Planner(Fleet(), ageing, served=lambda user_id: units.get(user_id, 0.0), charge=charge)
    fleet_mirror = FleetMirror(dispatcher.registry, dispatcher.liveness, planner, settings.node_late_seconds)
    fleet_mirror.look_around(dispatcher.clock())
    for row in dispatcher.database.read(lambda c: placing.waiting(c, task_ids)):
        request = request_of(row, frozenset(), frozenset(), settings.default_image)
        task = waiting_task(row, request, settings.default_task_memory_mb)
        planner.queue.add(task, dispatcher.clock())
    requirements = len(planner.queue.groups())
    planning = reserving = 0.0
    cpu, began = time.process_time(), time.perf_counter()
    while True:
        start = time.perf_counter()
        planned = planner.plan(dispatcher.clock(), ROUND)
        middle = time.perf_counter()
        planning += middle - start
        if not planned:
            break
        answers = dispatcher.registry.reserve_all(_reservations(planned), at=dispatcher.clock())
        reserving += time.perf_counter() - middle
        heard.update(answers)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    placed = heard[RegistryAnswer.OK]
    return Placing(
        placed=placed,
        left=len(planner.queue),
        refused=heard.total() - placed,
        requirements=requirements,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        parts={"deciding": planning, "reserving": reserving},
    )


def _reservations(planned: Sequence[Planned]) -> list[Reservation]:
    return [
        Reservation(it.node_id, attempt_id(it.task.task_id), it.task.requirements.claim, it.task.owner_id)
        for it in planned
    ]


def place_whole(stage: Stage, task_ids: Sequence[str]) -> tuple[PlacementLoop, Placing]:
    """The placement loop, from the hints to the messages in the queues of the nodes."""
    dispatcher = stage.dispatcher
    placement_loop = PlacementLoop(dispatcher)
    placement_loop.work()  # the first look at the fleet
    _warm_up(stage)
    with (
        watched(dispatcher.registry, "reserve_all") as reserving,
        watched(dispatcher.database, "read") as reading,
        watched(dispatcher.database, "write") as writing,
        watched(dispatcher.publisher, "execute_all") as publishing,
        watched(placement_loop.planner, "plan") as planning,
    ):
        placement_loop.hint(*task_ids)
        cpu, began = time.process_time(), time.perf_counter()
        placed = placement_loop.work()
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    return placement_loop, Placing(
        placed=placed,
        left=len(placement_loop.planner.queue),
        refused=0,
        requirements=0,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        parts={
            "deciding": planning.seconds,
            "reserving": reserving.seconds,
            "reading SQL": reading.seconds,
            "committing to SQL": writing.seconds,
            "telling the nodes": publishing.seconds,
        },
    )


def _warm_up(stage: Stage) -> None:
    """The first messages of a process cost more, and what was made before is not to be collected later."""
    node_id = stage.node_ids[0]
    stage.dispatcher.publisher.execute_all([(node_id, f"warm:{n}", "warm") for n in (1, 2)])
    stage.dispatcher.redis.delete(node_queue(node_id))
    gc.collect()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """Milliseconds."""

    reserved: Spread  # from the hint taken to the node chosen and reserved
    worst: float
    committed: Spread  # the same to the node told, with SQL committed
    unplaced: int


def decide_singly(stage: Stage, placement_loop: PlacementLoop, task_ids: Sequence[str]) -> Decisions:
    """One task after another, each when the one before is done with."""
    reserved: list[float] = []
    committed: list[float] = []
    with watched(stage.dispatcher.registry, "reserve_all") as reserving:
        for task_id in task_ids:
            before = reserving.calls
            placement_loop.hint(task_id)
            began = time.perf_counter()
            placement_loop.work()
            ended = time.perf_counter()
            if reserving.calls > before:
                reserved.append(_MILLISECONDS * (reserving.ended_at - began))
                committed.append(_MILLISECONDS * (ended - began))
    if not reserved:
        raise BenchmarkError("the fleet is full before single tasks come: give it more nodes, or fewer tasks")
    return Decisions(
        reserved=spread(reserved),
        worst=max(reserved),
        committed=spread(committed),
        unplaced=len(task_ids) - len(reserved),
    )


def decide_on_arrival(stage: Stage, task_ids: Sequence[str], per_second: float, rng: random.Random) -> Spread:
    """Tasks that come at random times to the placement loop's thread, which looks at the fleet now and then:
    milliseconds from the hint to the reservation."""
    hinted: dict[str, float] = {}
    taken: dict[str, float] = {}

    def note(args: tuple[Any, ...], at: float) -> None:
        taken.update({reservation.attempt_id: at for reservation in args[0]})

    placement_loop = PlacementLoop(stage.dispatcher)
    placement_loop.work()
    with watched(stage.dispatcher.registry, "reserve_all") as reserving:
        reserving.on_end = note
        placement_loop.start()
        try:
            due = time.perf_counter()
            end = due + _MOST_ARRIVAL_SECONDS
            for task_id in task_ids:
                due += rng.expovariate(per_second)
                if due > end:
                    break
                time.sleep(max(0.0, due - time.perf_counter()))
                hinted[task_id] = time.perf_counter()
                placement_loop.hint(task_id)
            patience = time.perf_counter() + _PATIENCE_SECONDS
            while time.perf_counter() < patience and any(
                placement_loop.is_known(task_id) for task_id in hinted
            ):
                time.sleep(0.05)
                if len(taken) >= len(hinted) - len(placement_loop.planner.queue):
                    break
        finally:
            placement_loop.stop()
    if not taken:
        raise BenchmarkError("no task that came found a node")
    # Ids of attempts say nothing: which task each is of, SQL knows.
    query = select(attempts.c.id, attempts.c.task_id)
    task_of = {
        row.id: row.task_id for row in stage.dispatcher.database.read(lambda c: c.execute(query).all())
    }
    known = {task_of[it]: at for it, at in taken.items() if it in task_of}
    return spread([_MILLISECONDS * (at - hinted[it]) for it, at in known.items() if it in hinted])


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    nodes: int
    tasks: int
    reserving: Placing
    whole: Placing
    single: Decisions
    distinct: Placing | None = None  # as `reserving`, and no task's needs are another's
    arriving: Spread | None = None


def measure(stage: Stage, workload: Workload, tasks: int, singles: int, *, briefly: bool = False) -> Engine:
    """The stage is filled with nodes. Afterwards the tasks are on them."""
    distinct = None if briefly else _measure_distinct(stage, workload, min(tasks, _DISTINCT_TASKS))
    ids = stage.add_tasks(workload.tasks(tasks, time.time()))
    stage.report()
    reserving = place_reserving(stage, ids)
    stage.forget_reservations()
    stage.report()
    placement_loop, whole = place_whole(stage, ids)
    stage.report()
    single = decide_singly(stage, placement_loop, stage.add_tasks(workload.tasks(singles, time.time())))
    arriving = None
    if not briefly:
        stage.report()
        later = stage.add_tasks(workload.tasks(singles, time.time()))
        arriving = decide_on_arrival(stage, later, _ARRIVALS_PER_SECOND, random.Random(tasks))
    return Engine(
        nodes=len(stage.node_ids),
        tasks=tasks,
        reserving=reserving,
        whole=whole,
        single=single,
        distinct=distinct,
        arriving=arriving,
    )


def _measure_distinct(stage: Stage, workload: Workload, tasks: int) -> Placing:
    rows = workload.tasks(tasks, time.time())
    for number, row in enumerate(rows):
        row["cpu_score"] += number
    ids = stage.add_tasks(rows)
    stage.report()
    placing = place_reserving(stage, ids)
    stage.forget_reservations()
    stage.remove_tasks(ids)
    return placing
