"""Results and words of nodes without an agent."""

from __future__ import annotations

from io import BytesIO

import pytest

from nodepool.domain.errors import InvalidInputError, TooLargeError
from nodepool.domain.tasks.pool_result import PoolResult, check_result, printable, write_result
from tests.support.bombs import with_end
from tests.support.tasks import package, unpacked

ZIP = package({"a.txt": "a"})


def check(data: bytes, max_bytes: int) -> None:
    check_result(BytesIO(data), len(data), max_bytes)


def made(result: PoolResult) -> bytes:
    write_result(file := BytesIO(), result)
    return file.getvalue()


def test_a_zip_of_a_fitting_size_is_taken() -> None:
    check(ZIP, len(ZIP))


@pytest.mark.parametrize("data", [b"", b"no ZIP", b"PK\x03\x04", ZIP[:-10]])
def test_what_is_no_zip_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInputError):
        check(data, 1000)


def test_what_is_too_large_is_refused() -> None:
    with pytest.raises(TooLargeError):
        check(ZIP, len(ZIP) - 1)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("busy", "busy"), ("", ""), ("  two\nlines\t ", "two lines"), ("\x1b[2Jgone\x07", "[2Jgone"),
        ("\u202edesrever", "desrever"), ("忙碌中", "忙碌中"), ("x" * 10_000, "x" * 300),
    ],
)  # fmt: skip
def test_words_of_strangers_are_one_bounded_line(words: str, shown: str) -> None:
    assert printable(words) == shown


def test_the_pools_own_result_says_what_it_is() -> None:
    result = PoolResult(
        task_id="t", attempt_id="t:1", node_id="n", status="STOPPED", reason="stopped by its owner",
        started_at=1.0, finished_at=2.0, output=b"half\xff",
    )  # fmt: skip
    data = made(result)
    check(data, 10_000)
    files = unpacked(data)
    assert files["task_logs.txt"] == b"half\xff"
    assert files["task_stopped.txt"] == b"stopped by its owner\n"
    assert b"attempt: t:1\nnode: n\nstatus: STOPPED" in files["execution_log.txt"]
    assert made(result) == data


def test_a_listing_of_millions_by_its_own_word_is_refused_at_the_end_of_the_file() -> None:
    with pytest.raises(InvalidInputError, match="not where it says"):
        check(with_end(ZIP, size=1 << 30), 10_000)
    with pytest.raises(InvalidInputError, match="not a ZIP file"):
        check(ZIP + b"more", 10_000)
