"""How far a job is, shown while it is waited for: rich's bar where rich is installed, in a notebook too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hivemind.jobs import JobInfo
from nodepool.domain.safe_text import harmless
from nodepool.domain.tasks.states import TaskState

Told = Callable[[JobInfo], None]
Progress = bool | Told


@contextmanager
def shown(progress: Progress, label: str) -> Iterator[Told]:
    """`progress`: True for a bar on stderr, or whoever is told how the job is after each look."""
    if callable(progress):
        yield progress
    elif progress:
        with _bar(label) as told:
            yield told
    else:
        yield lambda _job: None


@contextmanager
def _bar(label: str) -> Iterator[Told]:
    try:
        from rich.console import Console  # noqa: PLC0415  it is no part of the bare SDK
        from rich.markup import escape  # noqa: PLC0415
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            MofNCompleteColumn,
            Progress as Bar,
            TextColumn,
            TimeRemainingColumn,
        )
    except ImportError:
        yield lambda _job: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True)) as bar:
        name = escape(harmless(label))
        row = bar.add_task(name, total=None)

        def told(job: JobInfo) -> None:
            failed = job.counts.get(TaskState.FAILED, 0)
            words = f"{name} ({failed:,} failed)" if failed else name
            bar.update(row, total=job.tasks, completed=job.ended, description=words)

        yield told
