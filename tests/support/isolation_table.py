"""The table of docs/security.md that says what each level of isolation closes."""

from __future__ import annotations

from collections.abc import Mapping

from tests.support.environment import ROOT

LEVELS = (
    "Docker",
    "root with bubblewrap",
    "root without",
    "ordinary user with bubblewrap",
    "ordinary user without",
)
_FILE = ROOT / "docs/security.md"
_BEGIN, _END = "<!-- isolation levels: begin -->", "<!-- isolation levels: end -->"


def read_table() -> dict[str, dict[str, str]]:
    """By level and attack: `open` or `closed`."""
    text = _FILE.read_text(encoding="utf-8").partition(_BEGIN)[2].partition(_END)[0]
    header, _, *rows = [line.strip("| ").split(" | ") for line in text.strip().splitlines()]
    table: dict[str, dict[str, str]] = {level: {} for level in header[1:]}
    for name, *cells in rows:
        for level, cell in zip(header[1:], cells, strict=True):
            table[level][name] = cell.strip("*")
    return table


def write_table(found: Mapping[str, Mapping[str, str]]) -> None:
    lines = [f"| attack | {' | '.join(LEVELS)} |", f"|{'---|' * (len(LEVELS) + 1)}"]
    for name in found[LEVELS[0]]:
        cells = [found[level][name] for level in LEVELS]
        lines.append(f"| {name} | {' | '.join('**open**' if cell == 'open' else cell for cell in cells)} |")
    text = _FILE.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    after = rest.partition(_END)[2]
    _FILE.write_text(f"{before}{_BEGIN}\n" + "\n".join(lines) + f"\n{_END}{after}", encoding="utf-8")
