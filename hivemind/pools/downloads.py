"""The steps that fetch the files of a job's tasks, each into a directory of its own."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from hivemind.errors import MissingError
from hivemind.job_results import Fetch, Fetched, JobPlace, check_template, fits, place_of
from hivemind.pools import work
from hivemind.steps import Came, Steps, Together
from nodepool.domain.tasks.states import FINAL_TASK_STATES


def all_files(job_id: str, template: str, only: Sequence[str]) -> Steps[list[Fetched]]:
    """Of every task that has ended, by index. One that cannot be had is told as FAILED, and the others
    come all the same."""
    tasks = yield from work.tasks_of(job_id, FINAL_TASK_STATES)
    places = [place_of(job_id, task.task_id) for task in tasks]
    if any(place.step for place in places):
        check_template(template, is_flow=True)
    parts = [
        _fetched(task.task_id, place.path(template), only) for task, place in zip(tasks, places, strict=True)
    ]
    came: list[Came] = yield Together(parts, work.RESULTS_AT_ONCE)
    return [_told(place, place.path(template), each) for place, each in zip(places, came, strict=True)]


def _fetched(task_id: str, directory: Path, only: Sequence[str]) -> Steps[Fetch]:
    if directory.exists():
        return Fetch.THERE
    part = directory.parent / f".{directory.name}.{secrets.token_hex(8)}.part"
    try:
        got = yield from work.files(task_id, part)
        for name in got.files:
            if only and not any(fits(name, pattern) for pattern in only):
                (part / name).unlink()
        part.replace(directory)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Fetch.FETCHED


def _told(place: JobPlace, path: Path, came: Came) -> Fetched:
    outcome = came.value
    if came.error is not None:
        outcome = Fetch.NOTHING if isinstance(came.error, MissingError) else Fetch.FAILED
    return Fetched(
        task_id=place.task_id,
        index=place.index,
        step=place.step,
        path=path,
        outcome=outcome,
        problem="" if came.error is None else str(came.error),
    )
