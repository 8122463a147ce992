"""Names and labels of tasks are harmless wherever they are shown."""

from __future__ import annotations

import pytest

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.tasks.labels import MAX_LABELS, check_labels, check_name


@pytest.mark.parametrize("name", ["", "nightly", "火鍋 🍲 v2", "a" * 128])
def test_a_name_is_for_people(name: str) -> None:
    assert check_name(f" {name} ") == name


@pytest.mark.parametrize("name", ["\x1b[31mred", "two\nlines", "a" * 129, "\u202egnp.exe", "zero\u200bwidth"])
def test_a_name_that_does_something_to_a_terminal_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="at most 128 printable characters on one line"):
        check_name(name)


@pytest.mark.parametrize(
    "labels",
    [{}, {"sweep": ""}, {"a/b.c-d_e": "火 = x"}, {"k" * 63: "v" * 128}, {f"k{n}": "" for n in range(32)}],
)
def test_labels_within_the_bounds_are_taken(labels: dict[str, str]) -> None:
    check_labels(labels)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({f"k{number}": "" for number in range(MAX_LABELS + 1)}, "at most 32 labels, not 33"),
        ({"": "v"}, "key has at most 63"),
        ({"k" * 64: "v"}, "key has at most 63"),
        ({"-x": "v"}, "begins and ends with"),
        ({"a b": "v"}, "'a b' does not"),
        ({"k\x1b[2J": "v"}, r"k\\\\x1b\[2J"),
        ({"k": "v\n"}, "value of label k must have"),
        ({"k": "v" * 129}, "at most 128 printable"),
    ],
)
def test_others_are_refused(labels: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        check_labels(labels)
