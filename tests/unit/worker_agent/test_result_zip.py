"""The result ZIP: what gets in, what is left out, and how large it may be."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import zipfile
from pathlib import Path

import pytest

from hivemind.zip_unpack import unpack
from nodepool.domain.tasks.pool_result import RESULT_BOUNDS
from nodepool.domain.tasks.zip_listing import check_places, read_listing
from worker_agent.result_zip import BuiltResult, RunFacts, build_result
from worker_agent.trash import remove_tree


def facts(*, stopped: bool = False, dropped: int = 0) -> RunFacts:
    return RunFacts(
        task_id="t1",
        attempt_id="t1:1",
        node_id="ann/pc",
        status="STOPPED" if stopped else "COMPLETED",
        exit_code=0,
        reason="",
        stopped=stopped,
        started_at=1_700_000_000.0,
        finished_at=1_700_000_002.5,
        dropped_output_bytes=dropped,
    )


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def build(work: Path, *, output: bytes = b"out\n", limit: int = 1 << 20, **options: int) -> BuiltResult:
    return build_result(work, work.parent / "result.zip", facts(), output, limit, **options)


def opened(work: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(work.parent / "result.zip") as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_result_has_the_files_the_output_and_the_log(work: Path) -> None:
    (work / "out").mkdir()
    (work / "out/result.txt").write_text("42")
    (work / "empty").mkdir()
    built = build(work)
    files = opened(work)
    assert files["out/result.txt"] == b"42"
    assert files["task_logs.txt"] == b"out\n"
    assert "empty/" in files
    log = files["execution_log.txt"].decode()
    for line in ("Task: t1", "Node: ann/pc", "Status: COMPLETED", "Exit code: 0", "Duration: 2.500 seconds"):
        assert line in log
    assert "task_stopped.txt" not in files
    data = (work.parent / "result.zip").read_bytes()
    assert (built.size_bytes, built.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert built.left_out == 0


def test_a_stopped_run_says_so(work: Path) -> None:
    (work / "part.txt").write_text("half")
    build_result(work, work.parent / "result.zip", facts(stopped=True, dropped=7), b"", 1 << 20)
    files = opened(work)
    assert b"t1 was stopped at 2023-11-14T22:13:22" in files["task_stopped.txt"]
    assert files["part.txt"] == b"half"
    assert b"Output not kept: 7 bytes" in files["execution_log.txt"]


def test_links_pipes_and_sockets_are_named_and_left_out(work: Path) -> None:
    (work / "secret").symlink_to("/etc/passwd")
    (work / "folder").symlink_to("/etc")
    os.mkfifo(work / "pipe")
    here = Path.cwd()
    os.chdir(work)  # a socket's path may be no longer than 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket")
    finally:
        os.chdir(here)
    built = build(work)
    files = opened(work)
    assert set(files) == {"task_logs.txt", "execution_log.txt"}
    assert built.left_out == 4
    log = files["execution_log.txt"].decode()
    assert "Not in this archive (4):" in log
    for line in (
        "secret: it is a link",
        "folder: it is a link",
        "pipe: it is a device",
        "socket: it is a device",
    ):
        assert line in log


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_hard_link_to_somebody_elses_file_is_left_out(work: Path) -> None:
    """The agent reads what the run could not."""
    for name, owner in (("others", 4321), ("own", os.geteuid())):
        file = work.parent / name
        file.write_text(name)
        os.chown(file, owner, owner)
        os.link(file, work / name)
    assert build(work).left_out == 1
    files = opened(work)
    assert "others" not in files
    assert files["own"] == b"own"
    assert b"others: it is a hard link to somebody else's file" in files["execution_log.txt"]


def test_a_file_that_does_not_fit_is_left_out_and_smaller_ones_are_kept(work: Path) -> None:
    (work / "a_large.bin").write_bytes(random.Random(1).randbytes(300_000))
    (work / "b_small.txt").write_text("small")
    built = build(work, limit=100_000)
    files = opened(work)
    assert "b_small.txt" in files
    assert "a_large.bin" not in files
    assert "a_large.bin: its 300000 bytes do not fit" in files["execution_log.txt"].decode()
    assert built.size_bytes <= 100_000


def test_a_large_file_that_packs_well_gets_in(work: Path) -> None:
    (work / "zeros").write_bytes(bytes(1_000_000))
    build(work, limit=100_000)
    assert opened(work)["zeros"] == bytes(1_000_000)


def test_any_number_of_files_stays_within_the_bound(work: Path) -> None:
    for number in range(3000):
        (work / f"file-{number:05d}-{'x' * 60}").write_bytes(random.Random(number).randbytes(20))
    built = build(work, limit=300_000)
    assert built.size_bytes <= 300_000
    assert built.left_out > 0
    assert "the result is full" in opened(work)["execution_log.txt"].decode()


def test_output_larger_than_the_result_may_be_is_cut(work: Path) -> None:
    built = build(work, output=random.Random(2).randbytes(200_000), limit=100_000)
    files = opened(work)
    assert built.size_bytes <= 100_000
    assert "task_logs.txt: cut to its first" in files["execution_log.txt"].decode()
    assert len(files["task_logs.txt"]) > 10_000


def test_no_more_is_read_than_the_bound(work: Path) -> None:
    with (work / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    build(work, max_read_bytes=1 << 20)
    assert "more than is read" in opened(work)["execution_log.txt"].decode()


def test_files_with_our_names_do_not_replace_ours(work: Path) -> None:
    (work / "task_logs.txt").write_text("fake")
    (work / "sub").mkdir()
    (work / "sub/task_logs.txt").write_text("fine")
    build(work)
    files = opened(work)
    assert files["task_logs.txt"] == b"out\n"
    assert files["sub/task_logs.txt"] == b"fine"
    assert "task_logs.txt: the name is the pool's own" in files["execution_log.txt"].decode()


def test_names_that_are_no_text_and_old_times_do_no_harm(work: Path) -> None:
    (Path(os.fsdecode(os.fsencode(work) + b"/bad\xff"))).write_text("x")
    (work / "old").write_text("x")
    os.utime(work / "old", (0, 0))
    (work / "圖.txt").write_text("x")
    build(work)
    files = opened(work)
    assert {"old", "圖.txt"} <= set(files)
    assert "its path is not text" in files["execution_log.txt"].decode()


def test_folders_without_end_are_cut_off(work: Path) -> None:
    at = os.open(work, os.O_RDONLY)
    for _ in range(2000):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    try:
        assert build(work).left_out == 1
    finally:
        remove_tree(work)


def test_looking_at_what_was_left_ends_at_a_bound(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(200):
        (work / f"{number}").write_text("x")
    monkeypatch.setattr("worker_agent.result_zip._MAX_LOOKED_AT", 50)
    assert build(work).left_out == 1
    files = opened(work)
    assert len(files) == 50 + 2
    assert "nobody looks at more than 50 files" in files["execution_log.txt"].decode()


def test_paths_that_together_are_too_long_for_memory_are_left_out(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        (work / f"{number:02}{'n' * 98}").write_text("x")
    monkeypatch.setattr("worker_agent.result_zip._MAX_NAMES_BYTES", 1000)
    assert build(work).left_out == 10
    assert "the paths of all files together are too long" in opened(work)["execution_log.txt"].decode()


def test_files_that_lie_deep_cost_no_more_than_others(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is opened from the root, folder by folder, so that no link is followed."""
    deep = work.joinpath(*["d"] * 50)
    deep.mkdir(parents=True)
    for number in range(40):
        (deep / f"{number}").write_text("x")
    calls = 0
    real = os.open

    def counted(*arguments: object, **options: object) -> int:
        nonlocal calls
        calls += 1
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("worker_agent.result_zip._MAX_FOLDERS_OPENED", 2000)
    monkeypatch.setattr(os, "open", counted)
    build(work)
    assert calls < 2 * 2000 + 200
    assert "lie too deep" in opened(work)["execution_log.txt"].decode()


def test_whatever_is_packed_can_be_read_by_the_pool_and_by_the_owner(work: Path, tmp_path: Path) -> None:
    at = work
    for _ in range(5):
        at = at / ("n" * 200)
        at.mkdir()
        (at / "file").write_text("x")
    deep = work.joinpath(*["d"] * 120)
    deep.mkdir(parents=True)
    build(work)
    with (work.parent / "result.zip").open("rb") as file:
        listing = read_listing(file, RESULT_BOUNDS)
        check_places(file, listing)
    unpacked = unpack(work.parent / "result.zip", tmp_path / "mine")
    assert unpacked.warnings == ()
    assert len(unpacked.files) >= 5


def test_a_result_that_cannot_be_written_leaves_nothing(work: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        build_result(work / "gone", work.parent / "result.zip", facts(), b"", 1 << 20)
    assert [path.name for path in work.parent.iterdir()] == ["work"]
