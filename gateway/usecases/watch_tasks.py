"""WatchTasks: many tasks and jobs in one stream, each told when its state or its counts change.

One look answers for all of them, however many are watched. Output is WatchTask's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from gateway import messages as views
from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from gateway.usecases import removal
from gateway.usecases.jobs import ShownJob
from gateway.usecases.task_lists import MOST_NAMES
from nodepool.domain import ids
from nodepool.domain.errors import InvalidInputError
from nodepool.domain.not_visible import no_job
from nodepool.domain.tasks import exit_codes
from nodepool.domain.tasks.exit_codes import shell_code
from nodepool.domain.tasks.states import FINAL_TASK_STATES, TaskState
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql import jobs as job_store, task_lists as list_store
from nodepool.stores.sql.job_rows import StoredJob
from nodepool.stores.sql.task_rows import OwnedTask, TaskPulse

# How long a lost wake-up can go unnoticed: longer, the longer nothing has happened.
_LOOK_AGAIN_SECONDS, _LONGEST_SECONDS = 1.0, 4.0
# What ends within this time after another one is told with it.
_TOGETHER_SECONDS = 0.1


@dataclass(slots=True)
class _Watched:
    """What has not ended, for all that its watcher was told."""

    tasks: dict[str, TaskPulse | None]
    jobs: dict[str, Mapping[str, int]]


@dataclass(slots=True)
class _News:
    tasks: Sequence[OwnedTask] = ()
    jobs: Sequence[ShownJob] = ()


async def watch(
    gateway: Gateway, identity: CallerIdentity, request: pb.WatchTasksRequest
) -> AsyncIterator[OwnedTask | ShownJob]:
    """Ends when all have ended. Raises NotFoundError for what is not the caller's."""
    watched = _asked(request)
    pause = _LOOK_AGAIN_SECONDS
    with gateway.events.watch(*watched.tasks) as changed:
        while True:
            changed.clear()
            news = await gateway.run_list(_look, gateway, identity, watched)
            for row in news.tasks:
                yield row
            for job in news.jobs:
                yield job
            if not (watched.tasks or watched.jobs):
                return
            pause = _LOOK_AGAIN_SECONDS if news.tasks or news.jobs else min(2 * pause, _LONGEST_SECONDS)
            try:
                await asyncio.wait_for(changed.wait(), pause)
            except TimeoutError:
                continue
            pause = _LOOK_AGAIN_SECONDS
            await asyncio.sleep(_TOGETHER_SECONDS)


def _asked(request: pb.WatchTasksRequest) -> _Watched:
    tasks, job_ids = dict.fromkeys(request.task_ids), dict.fromkeys(request.job_ids)
    if not 1 <= len(tasks) + len(job_ids) <= MOST_NAMES:
        raise InvalidInputError(
            f"name 1 to {MOST_NAMES} tasks and jobs to watch, not {len(tasks) + len(job_ids)}"
        )
    for task_id in tasks:
        ids.check_task_id(task_id)
    for job_id in job_ids:
        ids.check_job_id(job_id)
    return _Watched(dict.fromkeys(tasks), {job_id: {} for job_id in job_ids})


def _look(gateway: Gateway, identity: CallerIdentity, watched: _Watched) -> _News:
    """What has changed; what has ended is not watched any more."""
    return _News(
        _changed_tasks(gateway, identity, watched.tasks) if watched.tasks else (),
        _changed_jobs(gateway, identity, watched.jobs) if watched.jobs else (),
    )


def _changed_tasks(
    gateway: Gateway, identity: CallerIdentity, watched: dict[str, TaskPulse | None]
) -> Sequence[OwnedTask]:
    owner_id = identity.user_id
    pulses = gateway.database.read(lambda c: list_store.pulses(c, owner_id, list(watched)))
    found = {pulse.id: pulse for pulse in pulses}
    for task_id in watched:
        if task_id not in found:
            raise removal.not_there(gateway, identity, task_id)
    changed = [task_id for task_id, told in watched.items() if found[task_id] != told]
    if not changed:
        return ()
    rows = gateway.database.read(lambda c: list_store.own(c, owner_id, changed))
    for row in rows:
        if views.is_final(row):
            del watched[row.id]
        else:
            watched[row.id] = TaskPulse(
                row.id, row.state, row.held_back_until, row.attempt_number, row.stop_requested
            )
    return rows


def _changed_jobs(
    gateway: Gateway, identity: CallerIdentity, watched: dict[str, Mapping[str, int]]
) -> list[ShownJob]:
    rows, counts = gateway.database.read(
        lambda c: (job_store.own(c, identity.user_id, list(watched)), job_store.counts(c, list(watched)))
    )
    by_id = {row.id: row for row in rows}
    told = []
    for job_id in list(watched):
        if job_id not in by_id:
            raise no_job(job_id)
        now = counts.get(job_id, {})
        # Of the states alone: of one whose tasks were all removed there is nothing left to count.
        ended = not any(now.get(state) for state in TaskState if state not in FINAL_TASK_STATES)
        if now == watched[job_id] and not ended:
            continue
        told.append(_job(gateway, by_id[job_id], now, ended=ended))
        watched[job_id] = now
        if ended:
            del watched[job_id]
    return told


def _job(gateway: Gateway, row: StoredJob, counts: dict[str, int], *, ended: bool) -> ShownJob:
    worst = 0
    if ended and counts.get(TaskState.FAILED):
        codes = gateway.database.read(lambda c: job_store.exit_codes_of_failed(c, row.id))
        worst = max((shell_code(TaskState.FAILED, code) for code in codes), default=exit_codes.FAILED)
    return ShownJob(job=row, counts=counts, worst_exit_code=worst)
