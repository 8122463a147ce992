"""What callers give becomes messages and paths: a wrong kind of value is an error of the client's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

from hivemind.errors import InvalidInputError

_Message = TypeVar("_Message")


def made(kind: type[_Message], /, **fields: Any) -> _Message:
    """Raises InvalidInputError for a value that the field cannot have."""
    for name, value in fields.items():
        # For a message it would be as if nothing had been said.
        if value is None:
            raise InvalidInputError(f"{name} is missing")
    try:
        return kind(**fields)
    except (TypeError, ValueError) as error:
        wrong = next((name for name, value in fields.items() if not _fits(kind, name, value)), "a value")
        raise InvalidInputError(f"{wrong} is nothing that can be sent: {error}") from error


def path_of(value: Any, what: str) -> Path:
    """Raises InvalidInputError."""
    told = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(told, str) or not told or "\0" in told:
        raise InvalidInputError(f"{what} must be a path, not {ascii(value)[:60]}")
    return Path(told)


def whole_number(value: Any, what: str, least: int = 0) -> int:
    """Raises InvalidInputError."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 1 << 31:
        raise InvalidInputError(f"{what} must be a whole number, {least} or more, not {ascii(value)[:60]}")
    return value


def _fits(kind: type[_Message], name: str, value: Any) -> bool:
    try:
        kind(**{name: value})
    except (TypeError, ValueError):
        return False
    return True
