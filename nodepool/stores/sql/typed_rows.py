"""How a row of SQL becomes a value that others may see: a frozen dataclass with one field for each column.

The columns of a query are made from the class, so that both have the same names in the same order; reading
a row by position costs a fraction of reading it by name. Knows nothing of what the columns mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from enum import StrEnum
from types import NoneType
from typing import Any, Self, TypeAlias, cast, get_args, get_type_hints

from sqlalchemy import Column, ColumnElement, Connection, Row, Table, and_

# Behind every letter that an id may have.
_BEHIND_IDS = "\x7f"
_Members: TypeAlias = dict[str | None, StrEnum | None]
_Choices: TypeAlias = tuple[tuple[int, _Members], ...]
# By class, once each.
_choices_of: dict[type[Any], _Choices] = {}


class FromRow:
    """A base for frozen dataclasses. Columns of a `StrEnum` become one of its members."""

    __slots__ = ()

    @classmethod
    def from_row(cls, row: Row[Any]) -> Self:
        """`row` is of a query for `columns(cls, ...)`. Raises ValueError for a word that no enum has."""
        return cls.from_rows((row,))[0]

    @classmethod
    def from_row_or_none(cls, row: Row[Any] | None) -> Self | None:
        return None if row is None else cls.from_row(row)

    @classmethod
    def from_rows(cls, rows: Iterable[Row[Any]]) -> list[Self]:
        make = cast(Callable[..., Self], cls)
        choices = _choices_of.get(cls)
        if choices is None:
            choices = _choices_of[cls] = _choices(cls)
        if not choices:
            return [make(*row) for row in rows]
        made = []
        try:
            for row in rows:
                values = list(row)
                for index, members in choices:
                    values[index] = members[values[index]]
                made.append(make(*values))
        except KeyError as error:
            raise ValueError(f"a row for {cls.__name__} has a word that there is not: {error}") from error
        return made


def columns(kind: type[Any], /, *tables: Table, **others: ColumnElement[Any]) -> list[ColumnElement[Any]]:
    """What to select for `kind`: for each field the column that is named here, else that of its name in the
    first of the tables that has one."""
    return [_column(field.name, tables, others) for field in fields(kind)]


def _column(name: str, tables: Iterable[Table], others: dict[str, ColumnElement[Any]]) -> ColumnElement[Any]:
    if name in others:
        return others[name].label(name)
    return next(table.c[name] for table in tables if name in table.c)


def _choices(kind: type[Any]) -> _Choices:
    """Positions of fields that are one of an enum's members, with those by their words."""
    hints = get_type_hints(kind)
    found: list[tuple[int, _Members]] = []
    for index, field in enumerate(fields(kind)):
        kinds = get_args(hints[field.name]) or (hints[field.name],)
        for one in kinds:
            if isinstance(one, type) and issubclass(one, StrEnum):
                nothing: _Members = {None: None} if NoneType in kinds else {}
                found.append((index, nothing | {member.value: member for member in one}))
    return tuple(found)


def begins_with(column: Column[str], prefix: str, connection: Connection) -> ColumnElement[bool]:
    """Ids that begin so, as a range of an index."""
    end = prefix + _BEHIND_IDS
    if connection.dialect.name == "postgresql":
        # By the letters' numbers and not by a language's order, as the index has them.
        return and_(column.op("~>=~")(prefix), column.op("~<~")(end))
    return and_(column >= prefix, column < end)
