"""The results of a job's tasks, each in a directory of its own; a fetch that was cut goes on where it was.

A directory is there when all of a result is in it, so one that is there is not fetched again. Knows the SDK
and no command.
"""

from __future__ import annotations

import fnmatch
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path

from hivemind.errors import BadResultError, ClientError, MissingError, RefusedError
from hivemind.models import TaskInfo
from hivemind.sdk import NodePoolClient
from hivemind.zip_unpack import MAX_UNPACKED_BYTES
from nodepool.domain.errors import InvalidInputError
from nodepool.domain.ids import check_job_id
from nodepool.domain.tasks.states import FINAL_TASK_STATES

AT_ONCE = 4
# So many are begun before the next are asked for.
_AHEAD = 64


class Fetch(StrEnum):
    """What came of one task's result."""

    FETCHED = "fetched"
    THERE = "there"  # from an earlier time
    NOTHING = "nothing"  # the task left none, or it is not kept any more
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    task_id: str
    index: int
    path: Path
    outcome: Fetch
    problem: str = ""
    step: str = ""  # of a flow


@dataclass(frozen=True, slots=True)
class JobPlace:
    """Which task of a job it is. `step` is empty where that is no flow."""

    task_id: str
    index: int
    step: str = ""

    def path(self, template: str) -> Path:
        return Path(template.format(index=self.index, task=self.task_id, step=self.step))


def check_template(template: str, *, is_flow: bool = False) -> None:
    """Raises RefusedError where two tasks would have one directory, or nothing can be made of it."""
    steps = ("a", "b") if is_flow else ("",)
    places = [JobPlace(f"job.{step}{index}", index, step) for step in steps for index in (1, 2)]
    try:
        named = {place.path(template) for place in places}
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise RefusedError(
            f"--output {template!r} knows {{index}}, {{step}} and {{task}} only: {error}"
        ) from error
    if len(named) < len(places):
        lacks = "{step} and {index}" if is_flow else "{index}"
        raise RefusedError(f"--output {template!r} is one directory for several tasks: put {lacks} into it")


_OF_ARRAY = re.compile(r"(\d{1,9})")
_OF_FLOW = re.compile(r"([A-Za-z][A-Za-z0-9_-]{0,39})(?:\.(\d{1,9}))?")


def place_of(job_id: str, task_id: str) -> JobPlace:
    """The pool's words become names of directories here, so they have to be what a job's tasks are called."""
    own = task_id.removeprefix(f"{job_id}.") if task_id.startswith(f"{job_id}.") else ""
    if found := _OF_ARRAY.fullmatch(own):
        return JobPlace(task_id, int(found[1]))
    if found := _OF_FLOW.fullmatch(own):
        return JobPlace(task_id, int(found[2] or 0), found[1])
    raise BadResultError(f"the pool named {task_id[:80]!r} as a task of {job_id}")


def fetch_all(
    pool: NodePoolClient,
    job_id: str,
    template: str,
    *,
    only: Sequence[str] = (),
    at_once: int = AT_ONCE,
    max_unpacked_bytes: int = MAX_UNPACKED_BYTES,
) -> Iterator[Fetched]:
    """Of every task that has ended, by index. `only`: patterns of the files that are kept (none: all).

    One that cannot be had is told as FAILED, and the others are fetched all the same. Raises RefusedError
    for a template that gives two tasks one directory.
    """
    try:
        check_job_id(job_id)
    except InvalidInputError as error:
        raise RefusedError(str(error)) from error
    check_template(template)
    ended = pool.job_tasks(job_id, *sorted(FINAL_TASK_STATES))

    def one(task: TaskInfo) -> Fetched:
        place = place_of(job_id, task.task_id)
        if place.step:
            check_template(template, is_flow=True)
        directory = place.path(template)
        outcome, problem = _fetched(pool, task.task_id, directory, only, max_unpacked_bytes)
        return Fetched(
            task_id=task.task_id,
            index=place.index,
            step=place.step,
            path=directory,
            outcome=outcome,
            problem=problem,
        )

    with ThreadPoolExecutor(at_once) as threads:
        while batch := list(islice(ended, _AHEAD)):
            yield from threads.map(one, batch)


def _fetched(
    pool: NodePoolClient, task_id: str, directory: Path, only: Sequence[str], max_unpacked_bytes: int
) -> tuple[Fetch, str]:
    """What came of it, and what was wrong."""
    if directory.exists():
        return Fetch.THERE, ""
    try:
        _unpack(pool, task_id, directory, only, max_unpacked_bytes)
    except MissingError as error:
        return Fetch.NOTHING, str(error)
    except (ClientError, OSError) as error:
        return Fetch.FAILED, str(error)
    return Fetch.FETCHED, ""


def _unpack(
    pool: NodePoolClient, task_id: str, directory: Path, only: Sequence[str], max_unpacked_bytes: int
) -> None:
    part = directory.parent / f".{directory.name}.{secrets.token_hex(8)}.part"
    try:
        got = pool.result(task_id, part, unpack=True, max_unpacked_bytes=max_unpacked_bytes)
        for name in got.files:
            if only and not any(fits(name, pattern) for pattern in only):
                (part / name).unlink()
        part.replace(directory)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def fits(name: str, pattern: str) -> bool:
    """A pattern without a slash is of the file's own name, in whatever directory."""
    return fnmatch.fnmatchcase(name if "/" in pattern else name.rpartition("/")[2], pattern)
