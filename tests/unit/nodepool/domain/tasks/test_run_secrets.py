"""Secrets of a task: how they are asked for, their bounds, and that no refusal holds a value."""

from __future__ import annotations

import pytest

from nodepool.domain.errors import InvalidInputError, NotFoundError
from nodepool.domain.tasks.run_secrets import (
    MAX_BYTES_OF_TASK,
    MAX_OF_TASK,
    MAX_VALUE_BYTES,
    check_are_set,
    check_secret_name,
    check_secret_value,
    wanted_secrets,
    words_of,
)

VALUE = "a-value-that-nobody-reads"


def test_a_secret_is_asked_for_by_its_name_or_under_another() -> None:
    wanted = wanted_secrets(["TOKEN", "DB=PGPASSWORD", "DB"], {})
    assert wanted == {"TOKEN": "TOKEN", "PGPASSWORD": "DB", "DB": "DB"}
    assert words_of(wanted) == ["DB", "DB=PGPASSWORD", "TOKEN"]
    assert wanted_secrets(words_of(wanted), {}) == wanted


@pytest.mark.parametrize(
    ("words", "environment", "told"),
    [
        (["A", "B=A"], (), "two secrets cannot both be the variable A"),
        (["A"], ("A",), "A is both a variable and a secret"),
        (["A=LD_PRELOAD"], (), r"LD_PRELOAD \(it changes what programs load"),
        (["HOME"], (), r"HOME \(it is a folder"),
        (["A="], (), "letters, digits and underscores"),
        (["A=two words"], (), "letters, digits and underscores"),
        (["=A"], (), "a secret's name has at most 64 letters"),
        (["9A"], (), "a secret's name has at most 64 letters"),
        (["x" * 65], (), "a secret's name has at most 64 letters"),
        ([1], (), "by its name, not by int"),
        ("TOKEN", (), "a list of names"),
        ([f"S{number}" for number in range(MAX_OF_TASK + 1)], (), "at most 16 secrets, not 17"),
    ],
)
def test_what_cannot_be_given_is_refused(words: list[str], environment: tuple[str, ...], told: str) -> None:
    with pytest.raises(InvalidInputError, match=told):
        wanted_secrets(words, environment)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("", "is empty"),
        (f"{VALUE}\0", "NUL character"),
        (f"{VALUE}\udcff", "not valid UTF-8"),
        (VALUE * MAX_VALUE_BYTES, "over the 16384 bytes"),
        (VALUE.encode(), "is text, not bytes"),
    ],
)
def test_a_value_that_cannot_be_one_is_refused_and_not_repeated(value: str, told: str) -> None:
    with pytest.raises(InvalidInputError, match=told) as refused:
        check_secret_value(value)
    assert VALUE not in str(refused.value)


def test_the_largest_value_counts_its_bytes() -> None:
    assert check_secret_value("é" * (MAX_VALUE_BYTES // 2)) == MAX_VALUE_BYTES


def test_a_value_in_place_of_a_name_is_not_repeated() -> None:
    with pytest.raises(InvalidInputError, match="letters, digits and underscores") as refused:
        check_secret_name(VALUE)
    assert VALUE not in str(refused.value)


def test_what_is_not_set_is_told_with_what_is() -> None:
    check_are_set(["A", "A"], {"A": 1, "B": 2})
    with pytest.raises(NotFoundError, match="no secret C, but these: A, B; `hivemind secret set C`"):
        check_are_set(["A", "C"], {"B": 2, "A": 1})
    with pytest.raises(NotFoundError, match="but these: none at all"):
        check_are_set(["C"], {})
    with pytest.raises(InvalidInputError, match=f"have {MAX_BYTES_OF_TASK + 1} bytes together"):
        check_are_set(["A", "B"], {"A": MAX_BYTES_OF_TASK, "B": 1})
