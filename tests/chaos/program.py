"""One run: a stage, a workload, a watch, the plan's faults one after the other, and what was seen of it."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from sqlalchemy import create_engine, select

from nodepool.domain.money.ledger import EntryKind, HoldState
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.ledger.api import verify_database
from nodepool.stores.sql.tables import holds, ledger_entries
from tests.chaos.faults import Breaker
from tests.chaos.history import Fault, History, Task
from tests.chaos.invariants import OUTLIVES_SECONDS
from tests.chaos.living import Living, LivingContainers, LivingProcesses
from tests.chaos.plan import REFERENCE_SECONDS, Plan, PlannedFault
from tests.chaos.stage import Stage, StageOptions
from tests.chaos.watch import Watch
from tests.chaos.workload import Workload
from tests.support import engine
from tests.support.waiting import wait_until

_DRAIN_SECONDS = 90.0
# A user's first tasks find agents that have just come.
_WARM_TASKS = 8
Say = Callable[[str], None]


def run(plan: Plan, options: StageOptions, folder: Path, say: Say) -> History:
    """In a pool of its own, in an empty folder which is left with what the parts said."""
    stage = Stage(folder, options)
    try:
        stage.start()
        return _run(stage, plan, say)
    finally:
        stage.end()


def _run(stage: Stage, plan: Plan, say: Say) -> History:
    with contextlib.ExitStack() as stack:
        watch = Watch(stage, stack.enter_context(_living(stage)))
        user = stage.register_user()
        load = Workload(stage.client_address, user.username, user.password, watch.has_ended, plan.seed)
        watch.start()
        stack.callback(watch.stop)
        load.start()
        stack.callback(load.close)
        stage.wait(lambda: _done(load) >= _WARM_TASKS, "tasks come back", 120)
        began = time.monotonic()
        time.sleep(REFERENCE_SECONDS)
        reference_until = time.monotonic()
        faults, problems = break_all(plan, Breaker(stage, watch), say)
        calm_until = time.monotonic()
        load.stop_submitting()
        say("no more tasks; those that are there come to their ends")
        if not load.await_all(_DRAIN_SECONDS):
            say(f"{len(load.unfinished)} tasks have not ended")
        problems += [f"a run of {name} is left" for name in _left_over(watch)]
    return History(
        began=began,
        reference_until=reference_until,
        calm_until=calm_until,
        slots=stage.slots,
        faults=tuple(faults),
        pauses=tuple(watch.pauses),
        samples=watch.samples(),
        tasks=_tasks(stage, load, watch),
        attempts=watch.seen_attempts(),
        runs=watch.runs(),
        calls=tuple(load.calls),
        credit=tuple(watch.credit.values()),
        on_probation=tuple(watch.on_probation),
        ledger_problems=_ledger_problems(stage),
        leftovers=tuple(problems),
    )


def _done(load: Workload) -> int:
    return sum(1 for it in list(load.submitted.values()) if it.done)


def _left_over(watch: Watch) -> list[str]:
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not watch.running, "all runs have ended", OUTLIVES_SECONDS, period=0.1)
    return sorted(watch.running)


def break_all(plan: Plan, breaker: Breaker, say: Say) -> tuple[list[Fault], list[str]]:
    """The faults as they were, and what did not come back, after which there are no more."""
    faults: list[Fault] = []
    for moment in _moments(plan):
        began = time.monotonic()
        try:
            with contextlib.ExitStack() as stack:
                for fault in moment:
                    say(str(fault))
                    stack.enter_context(breaker.broken(fault))
                time.sleep(max(it.seconds for it in moment))
        except AssertionError as error:
            faults.append(Fault(moment[0].name, began, time.monotonic()))
            return faults, [f"after {moment[0].name}: {error}"]
        ended = max(time.monotonic(), began + max(it.lasts for it in moment))
        name = " + ".join(it.name for it in moment)
        blamed = next((node for it in moment if (node := breaker.blamed(it))), "")
        faults.append(Fault(name, began, ended, blamed))
        time.sleep(max(0.0, ended - time.monotonic()) + plan.calm_seconds)
    return faults, []


def _moments(plan: Plan) -> Iterator[list[PlannedFault]]:
    moment: list[PlannedFault] = []
    for fault in plan.faults:
        if moment and not fault.together:
            yield moment
            moment = []
        moment.append(fault)
    if moment:
        yield moment


@contextlib.contextmanager
def _living(stage: Stage) -> Iterator[Living]:
    if stage.staged.runner != "docker":
        yield LivingProcesses()
        return
    with engine.engine() as client:
        yield LivingContainers(client, [agent.node_id for agent in stage.agents])


# -- what is known in the end ------------------------------------------------------------------------------
def _tasks(stage: Stage, load: Workload, watch: Watch) -> tuple[Task, ...]:
    payments, open_holds = _money(stage)
    found = []
    for submitted in load.submitted.values():
        if submitted.accepted is None:
            continue
        seen = watch.tasks.get(submitted.task_id)
        found.append(
            Task(
                task_id=submitted.task_id,
                accepted=submitted.accepted,
                state=seen.state if seen else "",
                ended=seen.ended if seen else None,
                output_token=submitted.output_token,
                result_token=submitted.result_token,
                ends=tuple(seen.ends) if seen else (),
                payments=payments[submitted.task_id],
                holds_open=open_holds[submitted.task_id],
            )
        )
    return tuple(found)


def _money(stage: Stage) -> tuple[Counter[str], Counter[str]]:
    """How often each task was paid, and whether it still holds something."""
    books = create_engine(stage.database_url)
    try:
        with books.connect() as connection:
            paid = connection.execute(
                select(ledger_entries.c.task_id).where(ledger_entries.c.kind == EntryKind.PAYMENT)
            ).scalars()
            payments = Counter(paid)
            still_held = select(holds.c.task_id).where(holds.c.state == HoldState.HELD)
            return payments, Counter(connection.execute(still_held).scalars())
    finally:
        books.dispose()


def _ledger_problems(stage: Stage) -> tuple[str, ...]:
    database = Database(stage.database_url)
    try:
        return tuple(verify_database(database).problems)
    finally:
        database.close()
