"""Secrets, the lock of a data directory, and bounded logs."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from local_pool.log_files import bound, last_lines, open_log
from local_pool.private_files import DataDirInUseError, DirLock, kept_secret, private_dir, write_private


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_secret_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    first = kept_secret(tmp_path / "secret")
    assert kept_secret(tmp_path / "secret") == first
    assert len(first) >= 32
    assert mode_of(tmp_path / "secret") == 0o600
    assert kept_secret(tmp_path / "other") != first


def test_a_secret_that_others_could_read_is_closed_again(tmp_path: Path) -> None:
    kept_secret(tmp_path / "secret")
    (tmp_path / "secret").chmod(0o644)
    kept_secret(tmp_path / "secret")
    assert mode_of(tmp_path / "secret") == 0o600


def test_an_empty_secret_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        kept_secret(tmp_path / "secret")


def test_a_private_file_replaces_an_open_one_and_leaves_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert path.read_text() == "new"
    assert mode_of(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_private_directory_is_closed_to_others_also_when_it_was_there(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o755)
    assert mode_of(private_dir(tmp_path / "d")) == 0o700


def test_a_data_directory_is_for_one_pool_at_a_time(tmp_path: Path) -> None:
    lock = DirLock(tmp_path / "up.lock")
    with pytest.raises(DataDirInUseError, match=f"process {os.getpid()}"):
        DirLock(tmp_path / "up.lock")
    lock.release()
    DirLock(tmp_path / "up.lock").release()


def test_a_log_within_its_bound_is_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    log.write_bytes(b"x" * 100)
    assert not bound(log, max_bytes=100)
    assert not bound(tmp_path / "not there.log", max_bytes=100)
    assert log.stat().st_size == 100


def test_a_log_over_its_bound_is_moved_aside_and_the_oldest_goes(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    for letter in "abcd":
        log.write_text(letter * 101)
        assert bound(log, max_bytes=100, kept_files=2)
    assert log.stat().st_size == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part.log", "part.log.1", "part.log.2"]
    assert (tmp_path / "part.log.1").read_text() == "d" * 100
    assert (tmp_path / "part.log.2").read_text() == "c" * 100
    assert mode_of(tmp_path / "part.log.1") == 0o600


def test_a_writer_goes_on_at_the_start_of_a_log_that_was_cut(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    descriptor = open_log(log)
    try:
        os.write(descriptor, b"x" * 200)
        bound(log, max_bytes=100)
        os.write(descriptor, b"after\n")
    finally:
        os.close(descriptor)
    assert log.read_bytes() == b"after\n"
    assert mode_of(log) == 0o600


def test_the_last_lines_are_those_of_this_life_only(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    log.write_text("earlier\n")
    offset = log.stat().st_size
    with log.open("a") as file:
        file.write("one\n\ntwo\nthree\n")
    assert last_lines(log, 2, since=offset) == ["two", "three"]
    assert last_lines(log, 9, since=offset) == ["one", "two", "three"]
    assert last_lines(log, 9, since=10_000) == ["earlier", "one", "two", "three"]
    assert last_lines(tmp_path / "not there.log", 9) == []
