"""Tasks, jobs and pools as they are seen in a notebook: small tables, in which every word of others is
escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping

from nodepool.domain.safe_text import harmless
from nodepool.domain.tasks.states import TaskState

_COLOURS = {
    TaskState.SUCCEEDED: "#2a7d3a",
    TaskState.FAILED: "#b3261e",
    TaskState.STOPPED: "#8a6d1a",
    TaskState.RUNNING: "#1a5fb4",
}
_OTHER_COLOUR = "#6b6b6b"


def text(value: object) -> str:
    return html.escape(harmless(str(value)), quote=True)


def table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """`rows` are a name and HTML that is escaped already."""
    lines = "".join(
        f'<tr><th style="text-align:left">{text(name)}</th><td style="text-align:left">{shown}</td></tr>'
        for name, shown in rows
    )
    return f"<div><strong>{text(title)}</strong><table>{lines}</table></div>"


def state(word: TaskState) -> str:
    colour = _COLOURS.get(word, _OTHER_COLOUR)
    return f'<span style="color:{colour}">{text(word.value.lower())}</span>'


def counts(found: Mapping[TaskState, int]) -> str:
    return ", ".join(f"{count:,} {state(word)}" for word, count in found.items())


def bar(done: int, total: int) -> str:
    return f'<progress value="{done}" max="{max(total, 1)}"></progress> {done:,} of {total:,}'


def pool(address: str, as_whom: str) -> str:
    return table(f"Pool {address}{as_whom}", ())
