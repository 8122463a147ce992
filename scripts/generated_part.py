"""The part of a page that is made from code: between two markers, which name the script that makes it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class GeneratedPart:
    """`name` is that of the page in docs, of the markers, and of the script, which ends in _table.py."""

    name: str
    made: Callable[[], str]

    @property
    def page(self) -> Path:
        return ROOT / "docs" / f"{self.name}.md"

    @property
    def remedy(self) -> str:
        return f"run: python scripts/{self.name}_table.py --write"

    def put_into(self, text: str) -> str:
        """The page's text with what is made now. Raises ValueError when the markers are not there."""
        first, last = (
            f"<!-- {self.name}: begin (scripts/{self.name}_table.py) -->",
            f"<!-- {self.name}: end -->",
        )
        before, begin, rest = text.partition(first)
        _, end, after = rest.partition(last)
        if not begin or not end:
            raise ValueError(f"docs/{self.name}.md lacks the lines {first!r} and {last!r}")
        return f"{before}{first}\n{self.made()}\n{last}{after}"

    def main(self, arguments: Sequence[str]) -> int:
        """With --write the page is made anew; else the part is printed, and 1 says that the page is old."""
        text = self.page.read_text(encoding="utf-8")
        wanted = self.put_into(text)
        if "--write" in arguments:
            self.page.write_text(wanted, encoding="utf-8")
            return 0
        print(self.made())
        if text != wanted:
            print(f"docs/{self.name}.md is old; {self.remedy}", file=sys.stderr)
            return 1
        return 0
