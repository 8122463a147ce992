"""events_table.py [--write]: the tables of docs/events.md, made from nodepool.events.catalogue.

Without --write it prints them and says whether docs/events.md is old; the exit status is 1 when it is.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from nodepool.domain.limit_names import LimitName
from nodepool.events.catalogue import EVENTS, Event, FloodEvent, LeaveCause, RefusalCause
from nodepool.events.field_words import FIELD_WORDS

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "events.md"
BEGIN = "<!-- events: begin (scripts/events_table.py) -->"
END = "<!-- events: end -->"


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


def with_tables(page: str) -> str:
    """The text with the tables between its markers. Raises ValueError when they are not there."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"docs/events.md lacks the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


def main(arguments: list[str]) -> int:
    text = PAGE.read_text(encoding="utf-8")
    wanted = with_tables(text)
    if "--write" in arguments:
        PAGE.write_text(wanted, encoding="utf-8")
        return 0
    print(tables())
    if text != wanted:
        print("docs/events.md is old; run: python scripts/events_table.py --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
