"""Tries of a task whose own program failed: which ends are tried again, and after how long. Pure.

What was lost or refused is another matter: that is tried again by itself, and uses up none of these.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nodepool.domain.errors import InvalidInputError

MAX_RETRIES = 20
MAX_CODES = 32
DEFAULT_BACKOFF_SECONDS = 30
# Of the first wait and of each that follows: it doubles up to here.
MAX_BACKOFF_SECONDS = 3600
# What timeout(1) says of a program that it ended. The pool says it of a run that took all its time.
TIME_LIMIT_CODE = 124
_LAST_CODE = 255
# A shell says 128 + S of a program that signal S ended.
_SIGNAL_BASE = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRules:
    """`codes`: only these are tried again; none: all but TIME_LIMIT_CODE, which would end the same again."""

    retries: int = 0
    codes: frozenset[int] = frozenset()
    backoff_seconds: int = DEFAULT_BACKOFF_SECONDS

    def repeats(self, code: int | None, failed: int) -> bool:
        """Whether a try that ended with this code is followed by another. `failed`: tries before it."""
        if failed >= self.retries:
            return False
        return code in self.codes if self.codes else code != TIME_LIMIT_CODE

    def wait_seconds(self, failed: int) -> float:
        """Before the next try, when so many have failed: it doubles with each, up to the bound."""
        doublings = min(max(0, failed - 1), MAX_BACKOFF_SECONDS.bit_length())
        return float(min(MAX_BACKOFF_SECONDS, self.backoff_seconds << doublings))


def shell_code(exit_code: int | None, *, at_time_limit: bool) -> int | None:
    """A failed program's exit code as a shell would say it; None where nobody knows.

    Whoever is killed for their memory has 137 (SIGKILL), whoever runs out of time TIME_LIMIT_CODE.
    """
    if at_time_limit:
        return TIME_LIMIT_CODE
    if exit_code is None:
        return None
    code = _SIGNAL_BASE - exit_code if exit_code < 0 else exit_code & _LAST_CODE
    return code or 1  # it failed, whatever it said


def check_retries(retries: int) -> int:
    if not 0 <= retries <= MAX_RETRIES:
        raise InvalidInputError(f"retries must be 0 to {MAX_RETRIES}, not {retries}")
    return retries


def check_codes(codes: Iterable[int]) -> tuple[int, ...]:
    """In order, each once. Raises InvalidInputError."""
    checked = tuple(sorted(set(codes)))
    for code in checked:
        if code == 0:
            raise InvalidInputError(
                "exit code 0 is success, and is not tried again: leave it out of retry_on"
            )
        if not 0 < code <= _LAST_CODE:
            raise InvalidInputError(
                f"an exit code of retry_on must be 1 to {_LAST_CODE}, not {code}; a program that signal S "
                f"ended has {_SIGNAL_BASE} + S, so 137 if it was killed"
            )
    if len(checked) > MAX_CODES:
        raise InvalidInputError(f"retry_on takes at most {MAX_CODES} exit codes; none means all of them")
    return checked


def check_backoff(seconds: int) -> int:
    """0 is the default. Raises InvalidInputError."""
    if not 0 <= seconds <= MAX_BACKOFF_SECONDS:
        raise InvalidInputError(
            f"backoff_seconds must be 1 to {MAX_BACKOFF_SECONDS}, or 0 for {DEFAULT_BACKOFF_SECONDS}, "
            f"not {seconds}"
        )
    return seconds


def check_retried(*, retries: int, replicas: int) -> None:
    """Raises InvalidInputError for what excludes each other."""
    if retries and replicas > 1:
        raise InvalidInputError(
            "runs of a task with replicas are compared, and one that failed is a result like others: ask for "
            "retries or for replicas"
        )


def codes_to_text(codes: Iterable[int]) -> str:
    """As SQL has them."""
    return " ".join(map(str, codes))


def codes_from_text(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))


def policy_of(retries: int, retry_on: str, backoff_seconds: int) -> RetryRules:
    """Of the columns of a task."""
    return RetryRules(
        retries=retries,
        codes=frozenset(codes_from_text(retry_on)),
        backoff_seconds=backoff_seconds or DEFAULT_BACKOFF_SECONDS,
    )
