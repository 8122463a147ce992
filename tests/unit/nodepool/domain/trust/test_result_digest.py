"""Digests of results: equal for runs that did the same, and never made of what a hostile ZIP asks for."""

from __future__ import annotations

import io
import struct
import zipfile

import pytest

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.tasks.states import Outcome
from nodepool.domain.trust import result_digest
from nodepool.domain.trust.result_digest import (
    IncomparableError,
    Ran,
    check_patterns,
    digest,
    unlike_any_other,
)
from tests.support.bombs import folder_bomb, overlapping, with_end
from tests.support.tasks import package

MAX_BYTES = 1 << 20
WELL = Ran(outcome=Outcome.SUCCEEDED, exit_code=0)
SENT = {"main.py": "print('hello')"}
LOGS = {"execution_log.txt": "Finished: 12:00", "task_logs.txt": "took 3 s\n"}


def digest_of(
    files: dict[str, str], *patterns: str, ran: Ran = WELL, sent: dict[str, str] | None = None
) -> str:
    return digest(ran, io.BytesIO(package(files)), io.BytesIO(package(sent or SENT)), patterns, MAX_BYTES)


def zipped(*entries: tuple[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return buffer


def test_times_order_and_the_agents_own_files_do_not_count() -> None:
    made = {**SENT, "out.csv": "1,2", "folder/": "", **LOGS}
    other = {"task_logs.txt": "took 4 s\n", "out.csv": "1,2", **SENT, "execution_log.txt": "12:01"}
    assert digest_of(made) == digest_of(other)


@pytest.mark.parametrize(
    "files",
    [
        {**SENT, "out.csv": "1,3"},
        {**SENT, "out.csv": "1,2", "more.csv": ""},
        {**SENT, "out2.csv": "1,2"},
        {"out.csv": "1,2"},
        {**SENT},
    ],
    ids=["content", "one more", "name", "one less", "nothing made"],
)
def test_another_file_is_another_digest(files: dict[str, str]) -> None:
    assert digest_of(files) != digest_of({**SENT, "out.csv": "1,2"})


def test_names_and_contents_cannot_be_shifted_into_each_other() -> None:
    assert digest_of({"a": "b", "c": "d"}) != digest_of({"a": "bc", "d": ""})


@pytest.mark.parametrize(
    "ran",
    [
        Ran(outcome=Outcome.FAILED, exit_code=0),
        Ran(outcome=Outcome.FAILED, exit_code=1),
        Ran(outcome=Outcome.FAILED, exit_code=2),
    ],
)
def test_how_it_ended_counts(ran: Ran) -> None:
    assert digest_of(SENT, ran=ran) != digest_of(SENT)


def test_a_node_that_tells_no_exit_code_agrees_with_one_that_does() -> None:
    for outcome, code in ((Outcome.SUCCEEDED, 0), (Outcome.FAILED, 1)):
        untold, told = (Ran(outcome=outcome, exit_code=it) for it in (None, code))
        assert digest_of(SENT, ran=untold) == digest_of(SENT, ran=told)


def test_a_task_that_only_says_something_is_compared_by_its_words() -> None:
    said = digest_of({**SENT, "task_logs.txt": "3.14", "execution_log.txt": "a"})
    assert said == digest_of({**SENT, "task_logs.txt": "3.14", "execution_log.txt": "b"})
    assert said != digest_of({**SENT, "task_logs.txt": "3.15", "execution_log.txt": "a"})


def test_pythons_caches_do_not_count() -> None:
    made = {**SENT, "out.csv": "1"}
    assert digest_of({**made, "__pycache__/a.pyc": "1", "x/__pycache__/b.pyc": "2"}) == digest_of(made)


def test_patterns_choose_what_is_compared() -> None:
    first = {**SENT, "out/a.csv": "1", "log.txt": "x", "task_logs.txt": "said"}
    other = {**SENT, "out/a.csv": "1", "log.txt": "y", "task_logs.txt": "else"}
    assert digest_of(first) != digest_of(other)
    assert digest_of(first, "*.csv") == digest_of(other, "*.csv")
    assert digest_of(first, "out/*") == digest_of(other, "nothing", "out/?.csv")
    assert digest_of(first, "*.csv", "task_logs.txt") != digest_of(other, "*.csv", "task_logs.txt")


def test_no_result_is_a_digest_of_how_it_ended() -> None:
    nothing = [digest(ran, None, None, (), MAX_BYTES) for ran in (WELL, WELL)]
    assert nothing[0] == nothing[1] != digest_of(SENT)


def many_entries() -> io.BytesIO:
    """A listing of more than 8 MiB, by its own word."""
    archive = zipped(("a", b"1"))
    data = bytearray(archive.getvalue())
    end = data.rfind(b"PK\5\6")
    data[end + 12 : end + 16] = struct.pack("<L", 9 << 20)
    return io.BytesIO(bytes(9 << 20) + bytes(data))


def encrypted() -> io.BytesIO:
    data = bytearray(zipped(("a", b"1")).getvalue())
    data[data.find(b"PK\1\2") + 8] |= 1
    return io.BytesIO(bytes(data))


def two_of_one_name() -> io.BytesIO:
    with pytest.warns(UserWarning, match="Duplicate"):
        return zipped(("a", b"1"), ("a", b"2"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: io.BytesIO(b"no ZIP"),
        lambda: io.BytesIO(zipped(("a", b"1" * 5000)).getvalue()[:-30]),
        lambda: zipped(("bomb", bytes(MAX_BYTES + 1))),
        lambda: zipped(("a", b"1"), packing=zipfile.ZIP_LZMA),
        lambda: zipped(("a", b"1"), packing=zipfile.ZIP_BZIP2),
        many_entries,
        encrypted,
        two_of_one_name,
        lambda: io.BytesIO(folder_bomb(1100, 99)),
        lambda: io.BytesIO(folder_bomb(1, 150)),
        lambda: io.BytesIO(overlapping(50, b"x" * 10_000)),
        lambda: io.BytesIO(with_end(package(SENT), entries=60_000)),
    ],
    ids=[
        "no ZIP",
        "cut",
        "bomb",
        "lzma",
        "bzip2",
        "long listing",
        "encrypted",
        "two of one name",
        "folders",
        "depth",
        "overlap",
        "lying end",
    ],
)
def test_what_cannot_be_read_within_bounds_has_no_digest(make: object) -> None:
    assert callable(make)
    with pytest.raises(IncomparableError):
        digest(WELL, make(), None, (), MAX_BYTES)


def test_what_cannot_be_read_agrees_with_nobody() -> None:
    assert unlike_any_other("t~1:1") != unlike_any_other("t~2:1")


@pytest.mark.parametrize(
    "patterns",
    [
        ["a"] * 33,
        ["[ab]" * 33, "[a]" * 33],
        ["a\u3164"],
        ["a\u202eb"],
        [""],
        ["a" * 201],
        ["a\nb"],
        ["/etc/passwd"],
        ["../out"],
        ["a/../b"],
    ],
)
def test_patterns_that_cannot_be_are_refused(patterns: list[str]) -> None:
    with pytest.raises(InvalidInputError, match="compare_outputs"):
        check_patterns(patterns)


def test_patterns_that_can_be_are_kept() -> None:
    wanted = ["out/*.csv", "[ab]?.txt", "a..b"]
    assert check_patterns(wanted) == tuple(wanted)
    assert result_digest.MAX_PATTERNS == 32
