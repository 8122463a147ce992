"""`hivemind ls`, and the options that it shares with other lists of tasks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Any

import click

from hivemind.cli.app import App, json_option, pass_app
from hivemind.cli.completing import node_ids
from hivemind.cli.connect import connect
from hivemind.cli.moments import as_moment
from hivemind.cli.naming import label_option
from hivemind.cli.render.task_list import COLUMNS, USUAL, task_list
from hivemind.cli.render.tasks import jsonable, show
from hivemind.cli.run_inputs import labels_of
from hivemind.errors import UnsupportedError
from hivemind.models import TaskInfo
from hivemind.sdk import NodePoolClient
from nodepool.domain.tasks.states import TaskState
from nodepool.wire import TASK_STATUS_WORDS

_STATUS_WORDS = ("PENDING", "RUNNING", "COMPLETED", "FAILED", "STOPPED")
_NEWEST = 1000


def _column_names(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> tuple[str, ...] | None:
    """Names with commas between."""
    if value is None:
        return None
    names = tuple(word.strip().lower() for word in value.split(",") if word.strip())
    for name in names:
        if name not in COLUMNS:
            close = get_close_matches(name, COLUMNS, n=1)
            guess = f"; did you mean {close[0]!r}?" if close else ""
            raise click.BadParameter(f"there is no column {name!r}{guess} There are: {', '.join(COLUMNS)}")
    if not names:
        raise click.BadParameter(f"name some of {', '.join(COLUMNS)}")
    return tuple(dict.fromkeys(names))


_OPTIONS = (
    label_option,
    click.option(
        "--state",
        "states",
        multiple=True,
        type=click.Choice([state.value for state in TaskState], case_sensitive=False),
        help="Only those; may be given several times.",
    ),
    click.option(
        "--node", default="", metavar="NODE", shell_complete=node_ids, help="That NODE has, or had last."
    ),
    click.option(
        "--since",
        callback=as_moment,
        metavar="TIME",
        help="Submitted since then: 2h or 3d ago, or 2026-01-31T12:00.",
    ),
    click.option("--until", callback=as_moment, metavar="TIME", help="Submitted before then."),
    click.option(
        "--limit",
        type=click.IntRange(min=0),
        default=_NEWEST,
        show_default=True,
        help="At most so many, the newest; 0: all.",
    ),
    click.option(
        "--columns",
        callback=_column_names,
        metavar="NAME,...",
        help=f"Show these, in this order: {', '.join(COLUMNS)}.",
    ),
    click.option("-q", "--quiet", is_flag=True, help="Only the ids, one a line."),
)


def check_looks(columns: Sequence[str] | None, *, quiet: bool) -> None:
    """Raises click.UsageError."""
    if quiet and columns:
        raise click.UsageError("-q prints ids alone, and --columns says what is shown: take one of them")


def list_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@click.option("--name", default="", help="Only those of this name.")
@list_options
@click.option("--status", type=click.Choice(_STATUS_WORDS, case_sensitive=False), help="Only those.")
@json_option
@pass_app
def ls(
    app: App,
    /,
    *,
    status: str | None,
    limit: int,
    columns: tuple[str, ...] | None,
    quiet: bool,
    **asked: Any,
) -> None:
    """Your tasks, newest first. All that is asked for must hold."""
    check_looks(columns, quiet=quiet)
    wanted = _wanted(asked, status)
    with connect(app) as pool:
        # One more tells whether that was all.
        found = list(_found(pool, wanted, limit + 1 if limit else 0))
    tasks = found[:limit] if limit else found
    tell_tasks(app, tasks, columns or USUAL, quiet=quiet, more=len(found) > len(tasks))


def _wanted(asked: dict[str, Any], status: str | None) -> dict[str, Any]:
    """As `NodePoolClient.tasks` takes it. A status is what older clients call some states."""
    states = tuple(TaskState(word) for word in asked["states"])
    if status is not None:
        of_status = tuple(state for state, word in TASK_STATUS_WORDS.items() if word == status)
        if states and not set(states) & set(of_status):
            raise click.UsageError(f"no task with status {status} is {' or '.join(states)}")
        states = tuple(state for state in of_status if not states or state in states)
    return {
        "name": asked["name"],
        "labels": labels_of(asked["labels"]),
        "states": states,
        "node": asked["node"],
        "since": asked["since"] or 0.0,
        "until": asked["until"] or 0.0,
    }


def _found(pool: NodePoolClient, wanted: dict[str, Any], limit: int) -> Iterator[TaskInfo]:
    try:
        yield from pool.tasks(**wanted, limit=limit)
    except UnsupportedError:
        yield from islice(_here(pool.list(), **wanted), limit or None)


def _here(
    tasks: Iterable[TaskInfo],
    *,
    name: str,
    labels: dict[str, str],
    states: Sequence[TaskState],
    node: str,
    since: float,
    until: float,
) -> Iterator[TaskInfo]:
    """Of the newest tasks that a pool tells which filters none."""
    for task in tasks:
        if (
            (not name or task.name == name)
            and labels.items() <= task.labels.items()
            and (not states or task.state in states)
            and (not node or task.node == node)
            and task.created_at >= since
            and (not until or task.created_at < until)
        ):
            yield task


def tell_tasks(
    app: App, tasks: Sequence[TaskInfo], columns: Sequence[str], *, quiet: bool, more: bool
) -> None:
    if app.json:
        app.answer([task.task_id if quiet else jsonable(task) for task in tasks])
    elif quiet:
        for task in tasks:
            app.say(task.task_id)
    elif tasks:
        show(task_list(tasks, columns, time.time()))
    else:
        app.notice("there are no such tasks")
    if more:
        app.notice(f"· the newest {len(tasks):,} are shown; --limit 0 shows all")
