"""How things look to people: tables on stdout, progress on stderr. And the JSON shape of values.

Knows rich; knows neither the connection nor click.
"""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.segment import Segment
from rich.text import Text

from hivemind.amounts import size_text
from hivemind.cli.render.columns import Column, FittedTable, Form, PlainTable
from hivemind.cli.render.plain_text import one_line
from hivemind.cli.render.told import told_text
from hivemind.models import AttemptInfo, ReplicaInfo, RequirementsInfo, TaskInfo
from nodepool.domain.safe_text import lines
from nodepool.domain.tasks.states import LocationMode, TaskState

# Wide enough that nothing is cut when the output is not for a screen.
_PIPE_COLUMNS = 20_000
_ANY = frozenset({"", "any"})
_MINUTE_SECONDS, _HOUR_SECONDS, _DAY_SECONDS = 60, 3600, 86400

_WRAPPED_COLUMNS = frozenset({"NAME", "NODE", "REASON"})
STATE_STYLES = {
    TaskState.QUEUED: "yellow",
    TaskState.WAITING: "blue",
    TaskState.PLACED: "cyan",
    TaskState.RUNNING: "cyan",
    TaskState.SUCCEEDED: "green",
    TaskState.FAILED: "red",
    TaskState.STOPPED: "magenta",
}
_STATUS_STYLES = {
    "PENDING": "yellow",
    "RUNNING": "cyan",
    "COMPLETED": "green",
    "FAILED": "red",
    "STOPPED": "magenta",
    "ONLINE": "green",
    "DRAINING": "yellow",
    "OFFLINE": "red",
    "UNFIT": "yellow",
}


def jsonable(value: Any) -> Any:
    """A value of `hivemind.models` as what json.dumps takes; the field names are the interface."""
    return asdict(value)


def bytes_text(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def count_text(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def days_text(days: float) -> str:
    return f"{days:g} day" + ("" if days == 1 else "s")


def duration_text(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    if seconds < _MINUTE_SECONDS:
        return f"{seconds:.0f} s"
    if seconds < _HOUR_SECONDS:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    if seconds < _DAY_SECONDS:
        return f"{seconds // _HOUR_SECONDS:.0f} h {seconds % _HOUR_SECONDS // 60:.0f} min"
    return f"{seconds // _DAY_SECONDS:.0f} d {seconds % _DAY_SECONDS // _HOUR_SECONDS:.0f} h"


def cut_text(words: str, most: int) -> str:
    """So many characters at the most."""
    return words if len(words) <= most else words[: most - 1] + "…"


def labels_text(labels: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(labels.items()))


def task_details(task: TaskInfo, now: float) -> Group:
    rows = {
        "task": task.task_id,
        "name": task.name,
        "job": task.job_id,
        "status": task.status + (f" ({task.state})" if task.state != task.status else ""),
        "reason": task.reason,
        "node": task.node,
        "attempt": str(task.attempt_number) if task.attempt_number else "",
        "queue": task.queue,
        "priority": str(task.priority) if task.max_minutes else "",
        "min trust": task.min_trust,
        "location mode": "" if task.location_mode == LocationMode.STRICT else task.location_mode,
        "longest run": _longest(task),
        "needs": needs_text(task.needs) if task.needs else "",
        "price": f"{task.price_per_minute_cpt:,} CPT for each started minute"
        if task.price_per_minute_cpt
        else "",
        "held": f"{task.held_cpt:,} CPT" if task.held_cpt else "",
        "paid": f"{task.paid_cpt:,} CPT" if task.final and task.price_per_minute_cpt else "",
        "after": " ".join((*task.after, *(f"{one} (however it ends)" for one in task.after_any))),
        **_alone(task),
        "retries": _retries_text(task),
        "next try": duration_text(max(0.0, task.next_try_at - now)) if task.next_try_at is not None else "",
        "again": task.resubmit_of,
        "exit code": "" if task.exit_code is None else str(task.exit_code),
        "stop": "asked for" if task.stop_requested and not task.final else "",
        "age": duration_text(now - task.created_at) if task.created_at else "",
        "run time": duration_text(task.run_seconds(now)),
        "result": _result_text(task, now),
        "verified": _verification_text(task),
        "labels": labels_text(task.labels),
        "arguments": shlex.join(task.arguments),
        # Values may be what is not for everybody who sees this screen.
        "environment": " ".join(sorted(task.environment)),
        "secrets": _secrets_text(task),
        "notify": told_text(task.notifications, task.notify),
    }
    table = PlainTable.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows.items():
        if text:
            table.add_row(name, Text(one_line(text)))
    parts: list[RenderableType] = [table]
    if task.attempts:
        parts += ["", attempts_table(task.attempts, now)]
    if task.replica_records:
        parts += ["", replicas_table(task.replica_records)]
    return Group(*parts)


def _alone(task: TaskInfo) -> dict[str, str]:
    return {
        "exclusive": "yes: never runs twice at one moment" if task.exclusive else "",
        "fresh": "yes: in a sandbox of its own" if task.fresh else "",
    }


def needs_text(needs: RequirementsInfo) -> str:
    """In the words of submit's options."""
    amounts = (
        f"memory {size_text(needs.memory_mb or needs.memory_gb << 10)}" if needs.memory_gb else "",
        f"cpu-score {needs.cpu_score}" if needs.cpu_score else "",
        f"gpu-score {needs.gpu_score}" if needs.gpu_score else "",
        f"GPU memory {needs.gpu_memory_gb} GiB" if needs.gpu_memory_gb else "",
        f"GPU {needs.gpu_name}" if needs.gpu_name.casefold() not in _ANY else "",
        f"location {needs.region}" if needs.region not in _ANY else "",
        f"image {needs.image}" if needs.image else "",
        "network" if needs.network else "",
    )
    return ", ".join(part for part in amounts if part)


def _secrets_text(task: TaskInfo) -> str:
    also = " (also on nodes of low trust)" if task.secrets_on_low_trust else ""
    return " ".join(task.secrets) + also if task.secrets else ""


def _longest(task: TaskInfo) -> str:
    covered = ", what your balance covered" if task.minutes_by_balance else ""
    return f"{count_text(task.max_minutes, 'minute')}{covered}" if task.max_minutes else ""


def _retries_text(task: TaskInfo) -> str:
    if not task.retries:
        return ""
    codes = f" after {', '.join(map(str, task.retry_on))}" if task.retry_on else ""
    failed = f"; failed {count_text(task.tries_failed, 'time')}" if task.tries_failed else ""
    last = f", last with exit code {task.last_exit_code}" if failed and task.last_exit_code else ""
    return f"{task.retries}{codes}{failed}{last}"


def _result_text(task: TaskInfo, now: float) -> str:
    if task.held_back_until is not None:
        return (
            f"is being checked; given in {duration_text(max(0.0, task.held_back_until - now))} at the latest"
        )
    if task.result_removed_at is not None:
        return f"removed {duration_text(max(0.0, now - task.result_removed_at))} ago"
    if not task.has_result:
        return ""
    left = task.result_until - now if task.result_until is not None else None
    stays = "" if left is None else f", removed in {duration_text(max(0.0, left))}"
    return f"{bytes_text(task.result_bytes)}{stays}"


def _verification_text(task: TaskInfo) -> str:
    if task.held_back_until is not None:
        return "not yet: it is being checked"
    words = {
        "pending": "not yet: results are being compared"
        if task.replicas > 1
        else "not yet: it may be checked",
        "agreed": "yes: enough of its runs agree",
        "audited": "yes: by an audit of its node",
        "disputed": "no: its runs did not agree",
    }
    return words.get(task.verification, task.verification)


def replicas_table(replicas: Sequence[ReplicaInfo]) -> PlainTable:
    """The runs whose results are compared; equal digests are equal results."""
    table = _table("RUN", "NODE", "STATE", "DIGEST", "VERDICT")
    for run in replicas:
        table.add_row(
            str(run.number), one_line(run.node), one_line(run.state), run.digest[:12], one_line(run.verdict)
        )
    return table


def attempts_table(attempts: Sequence[AttemptInfo], now: float) -> FittedTable[AttemptInfo]:
    """The record of each attempt: where, how long it waited, began and ran, and what it took."""
    forms: dict[str, Callable[[AttemptInfo], str]] = {
        "#": lambda attempt: str(attempt.number),
        "NODE": lambda attempt: attempt.node,
        "STATE": lambda attempt: attempt.state,
        "QUEUED": lambda attempt: duration_text(attempt.queue_seconds),
        "START": lambda attempt: duration_text(attempt.start_seconds),
        "RAN": lambda attempt: duration_text(attempt.run_seconds(now)),
        "CPU": lambda attempt: duration_text(attempt.cpu_seconds or None),
        "PEAK": lambda attempt: _amount(attempt.peak_memory_bytes),
        "IN": lambda attempt: _amount(attempt.bytes_in),
        "OUT": lambda attempt: _amount(attempt.bytes_out),
        "EXIT": lambda attempt: "" if attempt.exit_code is None else str(attempt.exit_code),
        "REASON": lambda attempt: attempt.reason,
    }
    columns = [
        Column(name, (Form(name, _plain(text)),), folds_at=16 if name == "REASON" else 0)
        for name, text in forms.items()
    ]
    return FittedTable(attempts, columns, ("IN", "OUT", "EXIT", "START", "PEAK"))


def _plain(text: Callable[[AttemptInfo], str]) -> Callable[[AttemptInfo], Text]:
    return lambda attempt: Text(one_line(text(attempt)))


def _amount(count: int) -> str:
    return bytes_text(count) if count else ""


class PlainConsole(Console):
    """The last door: whatever was forgotten before goes through `plain_text` here. Brackets are no markup.

    Control codes of rich's own, for a screen that is drawn anew, pass: nothing of others is in them.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(lines(segment.text), segment.style)


def stdout_console() -> Console:
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that this terminal's encoding lacks is shown as well as it can be.
        sys.stdout.reconfigure(errors="replace")
    console = PlainConsole()
    return console if console.is_terminal else PlainConsole(width=_PIPE_COLUMNS)


def show(renderable: RenderableType) -> None:
    """On stdout."""
    stdout_console().print(renderable)


@contextmanager
def transfer_bar(label: str, *, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr for bytes done of bytes in all; none where stderr is not a terminal."""
    if not (shown and sys.stderr.isatty()):
        yield lambda _done, _total: None
        return
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=PlainConsole(stderr=True),
        transient=True,
    )
    with bar:
        job = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(job, completed=done, total=total)


class Spinner:
    """What is waited for and how long already, on stderr; silent where that is not a terminal."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def show(self, text: str) -> None:
        if not sys.stderr.isatty():
            return
        shown = one_line(text)
        if self._progress is None:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                TimeElapsedColumn(),
                console=PlainConsole(stderr=True),
                transient=True,
            )
            self._progress.add_task(shown, total=None)
            self._progress.start()
        else:
            self._progress.update(self._progress.task_ids[0], description=shown)

    def hide(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _table(*columns: str) -> PlainTable:
    table = PlainTable(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column not in _WRAPPED_COLUMNS, overflow="fold")
    return table


def status_text(word: str) -> Text:
    return Text(one_line(word), style=_STATUS_STYLES.get(word, ""))
