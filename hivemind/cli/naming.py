"""How commands take tasks and jobs: ids, unique beginnings of ids, or labels; one or several.

What is meant says `hivemind.selectors`. Here are the options, and what happens when some of several fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click

from hivemind.cli.app import App
from hivemind.cli.completing import task_and_job_ids, task_ids
from hivemind.cli.render.plain_text import one_line
from hivemind.cli.run_inputs import labels_of
from hivemind.errors import (
    BadResultError,
    ClientError,
    ConflictError,
    ExitCode,
    LimitError,
    MissingError,
    NotYetError,
    RefusedError,
)
from hivemind.sdk import NodePoolClient
from hivemind.selectors import NamedIds
from nodepool.domain.not_visible import no_job
from nodepool.domain.tasks.states import FINAL_TASK_STATES, TaskState

UNFINISHED = tuple(state for state in TaskState if state not in FINAL_TASK_STATES)
FINISHED = tuple(state for state in TaskState if state in FINAL_TASK_STATES)
# What may be wrong with one of several, and not with the others.
_OF_ONE = (MissingError, ConflictError, NotYetError, RefusedError, BadResultError)

label_option = click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="KEY=VALUE",
    help="Those that have this label; given several times, all of them.",
)


def takes_names(*, jobs: bool = False) -> Callable[[Any], Any]:
    """TASK... and --label, which `chosen` makes ids of."""
    argument = click.argument(
        "task_ids",
        metavar="[ID]..." if jobs else "[TASK]...",
        nargs=-1,
        shell_complete=task_and_job_ids if jobs else task_ids,
    )
    return lambda command: argument(label_option(command))


def check_named(names: Sequence[str], labels: Sequence[str]) -> None:
    """Raises click.UsageError."""
    if bool(names) == bool(labels):
        raise click.UsageError("name tasks, or give --label" + (", not both" if names else ""))


def chosen(
    pool: NodePoolClient,
    names: Sequence[str],
    labels: Sequence[str],
    *,
    states: Sequence[TaskState] = (),
    jobs: bool = False,
) -> NamedIds:
    """`states`: of tasks that are named by their labels. `jobs`: they may be named, too."""
    check_named(names, labels)
    found = pool.select(names, labels_of(labels), states=states)
    if found.jobs and not jobs:
        raise not_a_task(found.jobs[0])
    return found


def one_task(pool: NodePoolClient, name: str) -> str:
    """The task that is meant."""
    return chosen(pool, [name], ()).tasks[0]


def one_job(pool: NodePoolClient, name: str) -> str:
    """The job that is meant. Of a task the pool says that there is no such job."""
    try:
        found = pool.select([name])
    except MissingError:
        raise MissingError(str(no_job(name))) from None
    return (found.jobs or found.tasks)[0]


def not_a_task(job_id: str) -> RefusedError:
    return RefusedError(
        f"{job_id} is a job",
        hint=f"`hivemind job` is for all of it; `hivemind job tasks {job_id}` tells its tasks",
    )


def is_one(names: Sequence[str], labels: Sequence[str]) -> bool:
    """One task was named: its answer is the command's, and its error, too."""
    return len(names) == 1 and not labels


def each_of(
    app: App, ids: Iterable[str], act: Callable[[str], Mapping[str, Any]]
) -> tuple[list[Mapping[str, Any]], int]:
    """What `act` answers for each. Those that fail are told, and the others are done all the same; the exit
    code is that of the last that failed."""
    answers: list[Mapping[str, Any]] = []
    code = ExitCode.OK
    for each in ids:
        try:
            answers.append(act(each))
        except LimitError:
            raise
        except _OF_ONE as error:
            code = error.exit_code
            answers.append({"task_id": each, "error": _json(error)})
            app.notice(one_line(f"{each}: {error}"))
    return answers, code


def _json(error: ClientError) -> dict[str, Any]:
    return {"code": error.code, "message": str(error), "exit_code": int(error.exit_code)}
