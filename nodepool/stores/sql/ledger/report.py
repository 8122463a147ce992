"""What the checks of the ledger say, and how they read: in streams of bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, Select

CHUNK_ROWS = 500
# More are not worth reading: where so much is wrong, the first ones say what happened.
MAX_PROBLEMS = 100


@dataclass(slots=True)
class LedgerReport:
    """What was looked at, and what is wrong with it, in words."""

    entries: int = 0
    accounts: int = 0
    holds: int = 0
    minted: int = 0
    head: str = ""
    problems: list[str] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        return not self.problems

    def wrong(self, text: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(text)
        elif len(self.problems) == MAX_PROBLEMS:
            self.problems.append("and more; the first ones say what happened")


def stream(connection: Connection, query: Select[Any]) -> Iterator[Row[Any]]:
    return iter(connection.execute(query.execution_options(yield_per=CHUNK_ROWS)))
