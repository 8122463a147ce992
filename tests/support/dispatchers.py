"""A dispatcher's objects in this process, on SQLite and a real broker, with a clock that the test turns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dispatcher import context
from dispatcher.context import Dispatcher
from nodepool.settings import Settings
from tests.support.databases import sqlite_file
from tests.support.valkey import TestValkey


@contextmanager
def open_dispatcher(
    valkey: TestValkey, folder: Path, now: list[float], *, steady: bool = True
) -> Iterator[Dispatcher]:
    """`now[0]` is its wall clock, and its monotonic one too where `steady` is not false."""
    settings = Settings.model_validate(
        {"redis_url": valkey.url, "db_path": sqlite_file(folder / "users.db"), "task_storage_path": folder}
    )

    def clock() -> float:
        return now[0]

    made = context.build(settings, clock=clock, **({"steady": clock} if steady else {}))
    yield made
    made.close()
