"""Events that a transaction brings about: noted beside the guarded update that did it, told after its commit.

`Database.write` collects them and tells them; of a transaction that is undone nothing is told. A transaction
of somebody else's making tells nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection

from nodepool.events.catalogue import Event

T = TypeVar("T")
_KEY = "hivemind events"


def note(connection: Connection, event: Event) -> None:
    noted = connection.info.get(_KEY)
    if noted is not None:
        noted.append(event)


def collect(connection: Connection, work: Callable[[Connection], T]) -> tuple[T, list[Event]]:
    """What `work` gives, and what it noted."""
    noted: list[Event] = []
    # Asked for once: a connection that breaks has none afterwards, and what broke it must be heard.
    info = connection.info
    info[_KEY] = noted
    try:
        return work(connection), noted
    finally:
        info.pop(_KEY, None)
