"""Times as people write them in commands: `10m` for how long, `2h` or a date for since when."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime

import click

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_LONG = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)([smhdw]?)", re.ASCII)
_DATE = re.compile(
    r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?(?:Z|[+-]\d{2}:?\d{2})?)?", re.ASCII
)


def duration_seconds(text: str) -> float:
    """Of `90`, `90s`, `1.5h`, `3d` or `1w`. Raises ValueError."""
    fits = _LONG.fullmatch(text.strip())
    if fits is None:
        raise ValueError(f"{text!r} is no time such as 90s, 10m, 2h, 3d or 1w")
    return float(fits[1]) * _SECONDS[fits[2]]


def moment(text: str, now: float) -> float:
    """Unix seconds of `2h` (so long ago), or of a date with or without time and zone. Raises ValueError.

    Without a zone it is this machine's.
    """
    word = text.strip()
    if _DATE.fullmatch(word):
        try:
            at = datetime.fromisoformat(word).timestamp()
        except (ValueError, OverflowError, OSError) as error:
            raise ValueError(f"{text!r} is not in the calendar: {error}") from error
    elif word[-1:].isalpha() and (fits := _LONG.fullmatch(word)):
        at = now - float(fits[1]) * _SECONDS[fits[2]]
    else:
        raise ValueError(f"{text!r} is no time such as 2h or 3d (ago), 2026-01-31 or 2026-01-31T12:00Z")
    if at < 0:
        raise ValueError(f"{text!r} is before 1970")
    return at


def as_duration(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """Of an option, in seconds."""
    return None if value is None else _or_usage(duration_seconds, value)


def as_moment(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """Of an option, in Unix seconds."""
    return None if value is None else _or_usage(lambda text: moment(text, time.time()), value)


def _or_usage(read: Callable[[str], float], text: str) -> float:
    try:
        return read(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
