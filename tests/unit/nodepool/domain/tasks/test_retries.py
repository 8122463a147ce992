"""Which ends of a task's own program are tried again, when, and what cannot be asked for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.tasks.retries import (
    MAX_BACKOFF_SECONDS,
    MAX_CODES,
    MAX_RETRIES,
    RetryRules,
    check_backoff,
    check_codes,
    check_retried,
    check_retries,
    codes_from_text,
    codes_to_text,
    policy_of,
    shell_code,
)


@pytest.mark.parametrize(
    ("told", "at_limit", "code"),
    [
        (3, False, 3),
        (-9, False, 137),
        (-15, False, 143),
        (137, False, 137),
        # A program that failed although its exit code says otherwise.
        (0, False, 1),
        (256, False, 1),
        (-9, True, 124),
        (0, True, 124),
        # A node without an agent tells no code.
        (None, False, None),
    ],
)
def test_the_code_of_an_end_is_a_shells(told: int | None, at_limit: bool, code: int | None) -> None:  # noqa: FBT001
    assert shell_code(told, at_time_limit=at_limit) == code


@pytest.mark.parametrize(
    ("policy", "code", "failed", "again"),
    [
        (RetryRules(), 1, 0, False),
        (RetryRules(retries=2), 1, 0, True),
        (RetryRules(retries=2), 1, 1, True),
        (RetryRules(retries=2), 1, 2, False),
        (RetryRules(retries=2), None, 0, True),
        # The same time again would end the same.
        (RetryRules(retries=2), 124, 0, False),
        (RetryRules(retries=2, codes=frozenset({124})), 124, 0, True),
        (RetryRules(retries=2, codes=frozenset({75, 137})), 137, 0, True),
        (RetryRules(retries=2, codes=frozenset({75, 137})), 1, 0, False),
        (RetryRules(retries=2, codes=frozenset({75})), None, 0, False),
    ],
)
def test_which_ends_are_tried_again(policy: RetryRules, code: int | None, failed: int, again: bool) -> None:  # noqa: FBT001
    assert policy.repeats(code, failed) is again


def test_the_wait_doubles_up_to_an_hour() -> None:
    policy = RetryRules(retries=MAX_RETRIES, backoff_seconds=30)
    assert [policy.wait_seconds(failed) for failed in range(1, 10)] == [
        30, 60, 120, 240, 480, 960, 1920, 3600, 3600,
    ]  # fmt: skip
    assert RetryRules(backoff_seconds=1).wait_seconds(10**9) == MAX_BACKOFF_SECONDS


def test_columns_say_what_was_asked_for() -> None:
    assert codes_from_text(codes_to_text(check_codes([137, 75, 75]))) == (75, 137)
    assert policy_of(3, "", 0) == RetryRules(retries=3, backoff_seconds=30)
    assert policy_of(3, "75 137", 5) == RetryRules(retries=3, codes=frozenset({75, 137}), backoff_seconds=5)


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: check_retries(-1), "retries must be 0 to 20, not -1"),
    (lambda: check_retries(21), "retries must be 0 to 20, not 21"),
    (lambda: check_codes([0]), "exit code 0 is success"),
    (lambda: check_codes([256]), "must be 1 to 255, not 256"),
    (lambda: check_codes([-9]), "has 128 \\+ S, so 137"),
    (lambda: check_codes(range(1, MAX_CODES + 2)), "at most 32 exit codes"),
    (lambda: check_backoff(-1), "backoff_seconds must be 1 to 3600"),
    (lambda: check_backoff(3601), "not 3601"),
    (lambda: check_retried(retries=1, replicas=2), "ask for retries or for replicas"),
]


@pytest.mark.parametrize(("ask", "words"), BAD)
def test_what_cannot_be_is_refused_with_what_can(ask: Callable[[], object], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        ask()
