"""SQL that is compiled once in a process of the tests, and not once for each database.

SQLAlchemy compiles a statement for each engine, which takes longer than most of them run; and a test has a
database of its own. What is compiled depends on the kind of database and not on which it is.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, MutableMapping
from typing import Any

import sqlalchemy
from sqlalchemy.engine import Compiled

from nodepool.stores.sql import database

# More than all of the pool's and of its tests'.
_MOST = 20_000
Key = tuple[Any, ...]


class Compilations(MutableMapping[Key, Compiled]):
    """SQLAlchemy's keys begin with the engine's dialect; here its class stands for it."""

    def __init__(self) -> None:
        self._kept: dict[Key, Compiled] = {}

    def __getitem__(self, key: Key) -> Compiled:
        return self._kept[_of_its_kind(key)]

    def __setitem__(self, key: Key, compiled: Compiled) -> None:
        if len(self._kept) >= _MOST:
            self._kept.clear()
        self._kept[_of_its_kind(key)] = compiled

    def __delitem__(self, key: Key) -> None:
        del self._kept[_of_its_kind(key)]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)


def _of_its_kind(key: Key) -> Key:
    return (type(key[0]), *key[1:])


def share() -> None:
    """For every Database that is opened in this process from now on."""
    options = {"compiled_cache": Compilations()}
    create = functools.partial(sqlalchemy.create_engine, execution_options=options)
    setattr(database, "create_engine", create)  # noqa: B010 - it is no name that the module gives others
