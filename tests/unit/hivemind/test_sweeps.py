"""Ranges, lines of a CSV and matrices, as people write them, before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from hivemind.cli.sweep import spread_matrix
from hivemind.errors import RefusedError
from hivemind.sweeps import Sweep, of_lines, of_matrix, of_range, parts
from nodepool.domain.tasks.run_inputs import RunInputs


def csv_file(folder: Path, data: bytes) -> Path:
    path = folder / "params.csv"
    path.write_bytes(data)
    return path


def test_a_range_is_its_indices() -> None:
    assert [index for index, _ in of_range("0-2,7, 9-10").rows] == [0, 1, 2, 7, 9, 10]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no range"),
        ("a-b", "is no range"),
        ("-1", "is no range"),
        ("5-1", "ends before it begins"),
        ("0-3,2", "index 2 is there twice"),
        ("0-99998,99998", "index 99998 is there twice"),
        ("0-100000", "1 to 100000 tasks, not 100001"),
        ("0-999999999", "1 to 100000 tasks"),
    ],
)
def test_what_is_no_range_is_refused(text: str, words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        of_range(text)


def test_lines_of_a_spreadsheet_are_read_with_mark_line_ends_and_quotes(tmp_path: Path) -> None:
    data = '\ufefflr,note\r\n0.1,"a, ""b"""\r\n\r\n0.2,"two\nlines"\r\n'.encode()
    sweep = of_lines(csv_file(tmp_path, data))
    assert sweep.names == ("lr", "note")
    assert sweep.rows == ((0, ("0.1", 'a, "b"')), (1, ("0.2", "two\nlines")))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"lr,seed\n", "no lines after it"),
        (b"lr,seed\n1\n", "line 2: 1 values, and the header has 2 names"),
        (b"lr,seed\n1,2\n3,4,5\n", "line 3: 3 values"),
        (b"lr,lr\n1,2\n", "two values are called 'lr'"),
        (b"lr,\n1,2\n", "is no name of a value"),
        (b"index\n1\n", "cannot be called 'index'"),
        (b"lr;seed\n1;2\n", "semicolons between its columns"),
        (b"lr\tseed\n1\t2\n", "tabs between its columns"),
        (b'lr\n"1\n', "line 2"),
        (b"lr\n\xff\n", "is not UTF-8"),
        ("lr\n1\n".encode("utf-16"), "is not UTF-8"),
        (b"lr\n" + b"1\n" * 100_001, "1 to 100000 tasks, not 100001"),
        (b"lr\n" + b"x" * (64 << 20), "has more than 67108864 bytes"),
    ],
)
def test_what_is_no_table_is_refused_with_its_line(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        of_lines(csv_file(tmp_path, data))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="cannot be read"):
        of_lines(tmp_path / "none.csv")


def test_a_matrix_is_every_combination() -> None:
    sweep = of_matrix(["lr=0.1,0.01", "seed=1-3"])
    assert sweep.names == ("lr", "seed")
    assert [values for _, values in sweep.rows] == [
        ("0.1", "1"), ("0.1", "2"), ("0.1", "3"), ("0.01", "1"), ("0.01", "2"), ("0.01", "3"),
    ]  # fmt: skip
    assert [index for index, _ in sweep.rows] == list(range(6))


def test_blanks_divide_a_word_only_into_parts_of_a_matrix() -> None:
    assert parts("lr=0.1 seed=1-3") == ["lr=0.1", "seed=1-3"]
    assert parts("prompt=hello world") == ["prompt=hello world"]


def test_words_with_a_dash_are_no_span() -> None:
    assert [values for _, values in of_matrix(["m=a-b,2024-01,-3--1,-1-1"]).rows] == [
        ("a-b",), ("2024-01",), ("-3--1",), ("-1",), ("0",), ("1",),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["lr"], "is no part of a matrix"),
        (["lr="], "is no part of a matrix"),
        (["a=1-1000", "b=1-1000"], "not 1000000"),
        (["a=1-999999999"], "1 to 100000 tasks"),
        (["a=1", "a=2"], "two values are called 'a'"),
    ],
)
def test_what_is_no_matrix_is_refused(words: list[str], why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        of_matrix(words)


def test_a_template_with_an_unknown_name_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(RefusedError, match=r"names \{lrr\}.*\{index\}, \{lr\}"):
        of_matrix(["lr=1"]).check(RunInputs(("{lrr}",)))
    assert Sweep(("lr",), ((3, ("x",)),)).check(RunInputs(("{lr}-{index}",))) == b'[3,"x"]\n'


def test_a_matrix_is_written_as_people_write_it() -> None:
    words = ["p", "--matrix", "lr=1,2", "seed=1-3", "--name", "a=b", "--", "--matrix", "x=1"]
    assert spread_matrix(words) == [
        "p", "--matrix", "lr=1,2", "--matrix", "seed=1-3", "--name", "a=b", "--", "--matrix", "x=1",
    ]  # fmt: skip
    assert spread_matrix(["p", "--matrix"]) == ["p", "--matrix"]
