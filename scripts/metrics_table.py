"""metrics_table.py [--write]: the tables of docs/metrics.md, made from nodepool.metrics.catalogue.

Without --write it prints them and says whether docs/metrics.md is old; the exit status is 1 when it is.
"""

from __future__ import annotations

import sys

from nodepool.metrics.catalogue import BOTH, DISPATCHER, GATEWAY, CatalogueEntry, Part, entries
from scripts.generated_part import GeneratedPart

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


PART = GeneratedPart("metrics", tables)


if __name__ == "__main__":
    sys.exit(PART.main(sys.argv[1:]))
