"""`--retries`, `--retry-on` and `--backoff`: what the command line says of another try."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.tasks.retries import (
    DEFAULT_BACKOFF_SECONDS,
    MAX_BACKOFF_SECONDS,
    MAX_RETRIES,
    TIME_LIMIT_CODE,
    check_backoff,
    check_codes,
)

_Command = TypeVar("_Command", bound=Callable[..., Any])
_DURATION = re.compile(r"(\d{1,9})([smh]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


class _Codes(click.ParamType[tuple[int, ...]]):
    name = "CODES"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        words = [word.strip() for word in str(value).split(",")]
        if not all(re.fullmatch(r"-?\d{1,9}", word) for word in words):
            self.fail(f"{value!r} are no exit codes: give them as 75,137", param, ctx)
        try:
            return check_codes(map(int, words))
        except InvalidInputError as error:
            self.fail(str(error), param, ctx)


class _Seconds(click.ParamType[int]):
    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = _DURATION.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"{value!r} is no duration: give it as 30s, 5m or 1h", param, ctx)
        seconds = int(found[1]) * _SECONDS[found[2]]
        try:
            if not check_backoff(seconds):
                self.fail("the shortest wait is 1s", param, ctx)
        except InvalidInputError:
            self.fail(f"the longest wait is {MAX_BACKOFF_SECONDS // 60}m, not {value}", param, ctx)
        return seconds


def retry_options(command: _Command) -> _Command:
    for option in reversed(
        (
            click.option(
                "--retries",
                type=click.IntRange(0, MAX_RETRIES),
                help=f"Where the program itself fails, try so many times more (at most {MAX_RETRIES}); each "
                "try is paid [default: 0].",
            ),
            click.option(
                "--retry-on",
                type=_Codes(),
                metavar="CODES",
                help="Only after these exit codes, such as 75,137 (killed, as for its memory) "
                f"[default: all but {TIME_LIMIT_CODE}, the longest run].",
            ),
            click.option(
                "--backoff",
                "backoff_seconds",
                type=_Seconds(),
                metavar="DURATION",
                help="Wait so long before another try, and twice as long before each that follows, up to an "
                f"hour [default: {DEFAULT_BACKOFF_SECONDS}s].",
            ),
        )
    ):
        command = option(command)
    return command


def check_retry_options(options: dict[str, Any]) -> None:
    """Raises click.UsageError for what goes with --retries alone."""
    if not options.get("retries"):
        for name, option in (("retry_on", "--retry-on"), ("backoff_seconds", "--backoff")):
            if options.get(name) is not None:
                raise click.UsageError(f"{option} goes with --retries")
