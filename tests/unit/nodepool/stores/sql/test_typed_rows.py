"""Rows become dataclasses by position: that each value is its own column's, and each state a real one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import FrozenInstanceError, dataclass, fields
from enum import StrEnum

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, create_engine, insert, select

from nodepool.stores.sql import attempt_rows, node_rows, task_rows
from nodepool.stores.sql.admin import RecordedAct, UserOverview
from nodepool.stores.sql.typed_rows import FromRow, columns


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


_METADATA = MetaData()
_BOATS = Table("boats", _METADATA, Column("id", Integer), Column("colour", String), Column("name", String))
_PORTS = Table("ports", _METADATA, Column("id", Integer), Column("name", String), Column("flag", String))


@dataclass(frozen=True, slots=True)
class Boat(FromRow):
    name: str
    flag: Colour | None
    id: int
    colour: Colour
    port_name: str


QUERY = select(*columns(Boat, _BOATS, _PORTS, port_name=_PORTS.c.name)).join(
    _PORTS, _PORTS.c.id == _BOATS.c.id
)


@pytest.fixture
def connection() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        _METADATA.create_all(connection)
        connection.execute(insert(_BOATS), [{"id": 1, "colour": "red", "name": "Ada"}])
        connection.execute(insert(_PORTS), [{"id": 1, "name": "Kiel", "flag": "blue"}])
        yield connection
    engine.dispose()


def test_a_field_has_the_column_of_its_name_of_the_first_table_or_the_one_that_is_told(
    connection: Connection,
) -> None:
    boat = Boat.from_row(connection.execute(QUERY).one())
    assert boat == Boat("Ada", Colour.BLUE, 1, Colour.RED, "Kiel")
    assert isinstance(boat.colour, Colour)
    with pytest.raises(FrozenInstanceError):
        boat.name = "Eva"  # type: ignore[misc]


def test_no_row_is_none_and_an_empty_column_of_an_enum_too(connection: Connection) -> None:
    connection.execute(_PORTS.update().values(flag=None))
    assert Boat.from_row(connection.execute(QUERY).one()).flag is None
    connection.execute(_BOATS.delete())
    assert Boat.from_row_or_none(connection.execute(QUERY).one_or_none()) is None
    assert Boat.from_rows(connection.execute(QUERY)) == []


def test_a_word_that_the_enum_has_not_is_an_error_and_no_state(connection: Connection) -> None:
    connection.execute(_BOATS.update().values(colour="green"))
    with pytest.raises(ValueError, match="green"):
        Boat.from_rows(connection.execute(QUERY))


def test_every_class_of_the_stores_is_frozen_and_slim() -> None:
    modules = (task_rows, attempt_rows, node_rows)
    kinds = {
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, FromRow) and kind is not FromRow
    } | {RecordedAct, UserOverview}
    assert len(kinds) > 10
    for kind in kinds:
        assert fields(kind)
        assert not hasattr(kind, "__dict__") or "__dict__" not in kind.__dict__, kind
        assert kind.__dataclass_params__.frozen, kind  # type: ignore[attr-defined]
