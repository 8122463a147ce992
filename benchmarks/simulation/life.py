"""What happens in a pool while it places: tasks come and end, nodes vanish and come back."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sqlalchemy import func, select

from benchmarks.simulation.checks import Violations, check
from benchmarks.simulation.stage import Stage
from benchmarks.simulation.workload import Workload
from dispatcher.placing.node_events import NodeEventListener
from dispatcher.placing.placement_loop import PlacementLoop
from dispatcher.placing.reserve import lose
from nodepool.domain.ends.attempt_end import End
from nodepool.domain.tasks.reasons import NO_REASON, told
from nodepool.domain.tasks.states import Outcome, TaskState
from nodepool.stores.redis import keys
from nodepool.stores.sql import tasks as task_store
from nodepool.stores.sql.attempt_rows import LiveAttempt
from nodepool.stores.sql.tables import tasks

_ROUNDS = 5
_AT_ONCE = 8
# A look at the fleet comes about once a second; what nothing has changed for longer is at rest.
_REST_SECONDS = 2.5
_MOST_SECONDS = 30.0
_LOOKS = 3
_DONE = End(outcome=Outcome.SUCCEEDED, exit_code=0, reason=NO_REASON, cpu_seconds=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    seconds: float
    came: int
    ended: int
    nodes_lost: int
    attempts_lost: int
    placed: int
    waiting: int
    violations: Violations


def live_through(
    stage: Stage, workload: Workload, rng: random.Random, *, comings: int, endings: int, node_losses: int
) -> Life:
    """All of it in some rounds, with the placement loop in its thread; then it is left alone and checked."""
    placement_loop = PlacementLoop(stage.dispatcher)
    listener = NodeEventListener(stage.dispatcher.redis, placement_loop)
    listener.start()
    # As the sweep tells a new dispatcher of everybody who waits.
    placement_loop.hint(*_waiting(stage))
    placement_loop.start()
    silent: list[str] = []
    lost = ended = 0
    began = time.monotonic()
    placed_before = _attempts_made(stage)
    try:
        for _ in range(_ROUNDS):
            placement_loop.hint(*stage.add_tasks(workload.tasks(comings // _ROUNDS, time.time())))
            vanishing = rng.sample(stage.node_ids, node_losses // _ROUNDS)
            silent += vanishing
            silence(stage, vanishing)
            rows = live(stage)
            ended += end_some(stage, rng.sample(rows, min(len(rows), endings // _ROUNDS)))
            lost += lose_all(stage, placement_loop, silent)
        back, silent = silent[::2], silent[1::2]
        stage.report([node_id for node_id in stage.node_ids if node_id not in set(silent)])
        placement_loop.look_again()
        lost += rest(stage, placement_loop, silent)
        found = settle(stage, placement_loop, silent)
    finally:
        placement_loop.stop()
        listener.stop()
    return Life(
        seconds=time.monotonic() - began,
        came=comings // _ROUNDS * _ROUNDS,
        ended=ended,
        nodes_lost=len(back) + len(silent),
        attempts_lost=lost,
        placed=_attempts_made(stage) - placed_before,
        waiting=len(_waiting(stage)),
        violations=found,
    )


def settle(stage: Stage, placement_loop: PlacementLoop, silent: Sequence[str] = ()) -> Violations:
    """What is wrong when nothing moves any more. What a later look finds mended was under way."""
    for _ in range(_LOOKS):
        found = check(stage)
        if not found.total():
            break
        rest(stage, placement_loop, silent)
    return found


def rest(stage: Stage, placement_loop: PlacementLoop, silent: Sequence[str] = ()) -> int:
    """Wait until nothing is placed any more; how many attempts were lost meanwhile."""
    deadline = time.monotonic() + _MOST_SECONDS
    before, since, lost = -1, time.monotonic(), 0
    while time.monotonic() < deadline and time.monotonic() - since < _REST_SECONDS:
        lost += lose_all(stage, placement_loop, silent)
        now = _attempts_made(stage)
        if now != before:
            before, since = now, time.monotonic()
        time.sleep(0.2)
    return lost


def silence(stage: Stage, node_ids: Sequence[str]) -> None:
    if node_ids:
        stage.dispatcher.redis.delete(*(keys.report(node_id) for node_id in node_ids))


def live(stage: Stage) -> list[LiveAttempt]:
    return list(stage.dispatcher.database.read(task_store.live_attempts))


def lose_all(stage: Stage, placement_loop: PlacementLoop, node_ids: Sequence[str]) -> int:
    """As the sweep does with the attempts of nodes that are late; nobody else hears of their tasks here."""
    gone = set(node_ids)
    rows = [row for row in live(stage) if row.node_id in gone] if gone else []
    for row in rows:
        lose(stage.dispatcher, row, told("the node vanished"))
    placement_loop.hint(*(row.task_id for row in rows))
    return len(rows)


def end_some(stage: Stage, rows: Sequence[LiveAttempt]) -> int:
    """As their agents do it: claimed, and then ended well."""
    dispatcher = stage.dispatcher

    def one(row: LiveAttempt) -> None:
        dispatcher.database.write(
            lambda c: task_store.claim_attempt(c, row.id, row.node_id, row.owner_id, dispatcher.clock())
        )
        dispatcher.lifecycle.end_attempt(row.id, row.node_id, row.owner_id, _DONE)

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        list(threads.map(one, rows))
    return len(rows)


def _attempts_made(stage: Stage) -> int:
    query = select(func.coalesce(func.sum(tasks.c.attempt_number), 0))
    return int(stage.dispatcher.database.read(lambda c: c.execute(query).scalar_one()))


def _waiting(stage: Stage) -> list[str]:
    query = select(tasks.c.id).where(tasks.c.state == TaskState.QUEUED)
    return list(stage.dispatcher.database.read(lambda c: c.execute(query).scalars().all()))
