"""How much a statement has to look at: what was asked of a database is noted, and measured again when that
holds more.

Counted and not timed: on SQLite the steps of its machine, on PostgreSQL the rows that its plan touched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError

from nodepool.stores.sql.database import Database

_STEPS_AT_ONCE = 50
_VERBS = ("SELECT", "UPDATE", "DELETE", "INSERT", "WITH")


@dataclass(frozen=True)
class Asked:
    statement: str
    parameters: Any


@contextmanager
def noted(database: Database) -> Iterator[list[Asked]]:
    """What is asked meanwhile, each kind of statement once."""
    found: list[Asked] = []
    seen: set[str] = set()

    def note(
        _connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: Any
    ) -> None:
        if statement in seen or not statement.lstrip().upper().startswith(_VERBS):
            return
        seen.add(statement)
        found.append(Asked(statement, parameters[0] if many else parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


def work_of(database: Database, asked: Asked) -> int:
    """Of doing it now, and undoing it."""
    return _steps(database, asked) if database.is_sqlite else _rows(database, asked)


def _steps(database: Database, asked: Asked) -> int:
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += _STEPS_AT_ONCE
        return 0

    with database.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        driver.execute("PRAGMA foreign_keys = OFF")
        driver.execute("BEGIN")
        driver.set_progress_handler(count, _STEPS_AT_ONCE)
        try:
            driver.execute(asked.statement, asked.parameters).fetchall()
        except driver.IntegrityError:
            pass  # it is there already; what it took to find that out counts
        finally:
            driver.set_progress_handler(None, 0)
            driver.execute("ROLLBACK")
            driver.execute("PRAGMA foreign_keys = ON")
    return steps


def _rows(database: Database, asked: Asked) -> int:
    explain = "EXPLAIN (ANALYZE, TIMING OFF, COSTS OFF, FORMAT JSON) "
    with database.engine.connect() as connection:
        # Of a few thousand rows it rather reads all than looks into an index; of a million it does not.
        for name in ("seqscan", "hashjoin", "mergejoin"):
            connection.execute(text(f"SET LOCAL enable_{name} = off"))
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        try:
            found = connection.exec_driver_sql(explain + asked.statement, asked.parameters).scalar_one()
        except IntegrityError:
            return 0  # it is there already
        finally:
            connection.rollback()
    plan = json.loads(found) if isinstance(found, str) else found
    return round(sum(_touched(node) for node in _nodes(plan[0]["Plan"])))


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for below in node.get("Plans", ()):
        yield from _nodes(below)


def _touched(node: dict[str, Any]) -> float:
    if "Scan" not in node["Node Type"]:
        return 0.0
    removed = sum(value for name, value in node.items() if name.startswith("Rows Removed by"))
    return float((node["Actual Rows"] + removed) * node["Actual Loops"])


def plan_of(database: Database, asked: Asked) -> str:
    """For people, where it is more than it should be."""
    with database.engine.connect() as connection:
        how = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
        rows = connection.exec_driver_sql(how + asked.statement, asked.parameters).all()
    return "\n".join(str(row[-1]) for row in rows)
