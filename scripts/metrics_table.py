"""metrics_table.py [--write]: the tables of docs/metrics.md, made from nodepool.metrics.catalogue.

Without --write it prints them and says whether docs/metrics.md is old; the exit status is 1 when it is.
"""

from __future__ import annotations

import sys
from pathlib import Path

from nodepool.metrics.catalogue import BOTH, DISPATCHER, GATEWAY, CatalogueEntry, Part, entries

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "metrics.md"
BEGIN = "<!-- metrics: begin (scripts/metrics_table.py) -->"
END = "<!-- metrics: end -->"
_HEADINGS: dict[tuple[Part, ...], str] = {
    BOTH: "Gateway and dispatcher",
    GATEWAY: "Gateway",
    DISPATCHER: "Dispatcher",
}


def tables() -> str:
    lines: list[str] = []
    for parts, heading in _HEADINGS.items():
        lines += [f"## {heading}", "", "| Metric | Kind | Labels | Meaning |", "|---|---|---|---|"]
        lines += [_row(entry) for entry in entries() if entry.parts == parts]
        lines.append("")
    return "\n".join(lines).rstrip()


def _row(entry: CatalogueEntry) -> str:
    labels = ", ".join(f"`{label}`" for label in entry.labels)
    return f"| `{entry.name}` | {entry.kind} | {labels} | {entry.words} |"


def with_tables(page: str) -> str:
    """The text with the tables between its markers. Raises ValueError when they are not there."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"docs/metrics.md lacks the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


def main(arguments: list[str]) -> int:
    text = PAGE.read_text(encoding="utf-8")
    wanted = with_tables(text)
    if "--write" in arguments:
        PAGE.write_text(wanted, encoding="utf-8")
        return 0
    print(tables())
    if text != wanted:
        print("docs/metrics.md is old; run: python scripts/metrics_table.py --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
