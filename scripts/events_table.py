"""events_table.py [--write]: the tables of docs/events.md, made from nodepool.events.catalogue.

Without --write it prints them and says whether docs/events.md is old; the exit status is 1 when it is.
"""

from __future__ import annotations

import dataclasses
import sys

from nodepool.domain.limit_names import LimitName
from nodepool.events.catalogue import EVENTS, Event, FloodEvent, LeaveCause, RefusalCause
from nodepool.events.field_words import FIELD_WORDS
from scripts.generated_part import GeneratedPart


def fields_of(event: type[Event]) -> list[str]:
    return [field.name for field in dataclasses.fields(event)]


def tables() -> str:
    lines = ["## Events", "", "| `action` | Level | Fields | When |", "|---|---|---|---|"]
    lines += [_row(event) for event in EVENTS]
    lines += ["", "## Fields", "", "| Field | Meaning |", "|---|---|"]
    lines += [f"| `{name}` | {words} |" for name, words in sorted(FIELD_WORDS.items())]
    lines += ["", "## Values", "", "| Field | Values |", "|---|---|"]
    for name, values in (
        ("`limit`", LimitName),
        ("`cause` of `login.refused`", RefusalCause),
        ("`cause` of `node.left`", LeaveCause),
    ):
        lines.append(f"| {name} | {', '.join(f'`{value.value}`' for value in values)} |")
    return "\n".join(lines)


def _row(event: type[Event]) -> str:
    fields = ", ".join(f"`{name}`" for name in fields_of(event))
    bound = " Bounded." if issubclass(event, FloodEvent) else ""
    return f"| `{event.action}` | {event.level} | {fields} | {event.words}{bound} |"


PART = GeneratedPart("events", tables)


if __name__ == "__main__":
    sys.exit(PART.main(sys.argv[1:]))
