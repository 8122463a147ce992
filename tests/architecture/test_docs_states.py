"""The diagrams of docs/states.md have the edges of the tables in tasks/states.py, no more and no fewer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum

import pytest

from nodepool.domain.tasks.states import ATTEMPT_TRANSITIONS, TASK_TRANSITIONS, AttemptState, TaskState
from nodepool.wire import TASK_STATUS_WORDS
from tests.support.environment import ROOT

PAGE = (ROOT / "docs" / "states.md").read_text(encoding="utf-8")
END = "[*]"


def edges_drawn(marker: str) -> list[tuple[str, str]]:
    found = re.search(rf"<!-- {marker} -->\n```mermaid\nstateDiagram-v2\n(.*?)```", PAGE, re.DOTALL)
    assert found, f"docs/states.md has no diagram after <!-- {marker} -->"
    return [(before, after) for before, after in re.findall(r"^\s+(\S+) --> (\S+)$", found[1], re.MULTILINE)]


def edges_of(table: Mapping[StrEnum, frozenset[StrEnum]], *first: StrEnum) -> set[tuple[str, str]]:
    inner = {(str(before), str(after)) for before, nexts in table.items() for after in nexts}
    begin = {(END, str(state)) for state in first}
    return inner | begin | {(str(state), END) for state, nexts in table.items() if not nexts}


@pytest.mark.parametrize(
    ("marker", "wanted"),
    [
        ("task", edges_of(TASK_TRANSITIONS, TaskState.QUEUED, TaskState.WAITING)),  # type: ignore[arg-type]
        ("attempt", edges_of(ATTEMPT_TRANSITIONS, AttemptState.ASSIGNED)),  # type: ignore[arg-type]
    ],
)
def test_a_diagram_has_the_edges_of_its_table(marker: str, wanted: set[tuple[str, str]]) -> None:
    drawn = edges_drawn(marker)
    assert set(drawn) == wanted
    assert len(drawn) == len(wanted), "an edge is drawn twice"


def test_the_words_of_the_wire_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `([A-Z]+)` \| ([A-Z, ]+) \|$", PAGE, re.MULTILINE)
    drawn = {state: word for word, states in rows for state in states.split(", ")}
    assert drawn == {str(state): word for state, word in TASK_STATUS_WORDS.items()}
