"""The store on a disk that is really full, and under a file size limit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodepool.domain.errors import StorageFullError
from nodepool.stores.files.file_store import FileStore
from tests.support.environment import not_here

KEY = bytes(32)
DISK_BYTES = 1 << 20

LIMITED = """
import resource, sys
from pathlib import Path
from nodepool.domain.errors import StorageFullError
from nodepool.stores.files.file_store import FileStore

store = FileStore(Path(sys.argv[1]), bytes(32))
small = store.put_package(b"small")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
def streamed():
    with store.result_writer("task:1") as writer:
        for _ in range(10):
            writer.write(bytes(50_000))
        writer.commit()
for write in (lambda: store.put_package(bytes(200_000)), streamed):
    try:
        write()
    except StorageFullError:
        print("full")
assert store.package_bytes(small) == b"small"
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        not_here("only root may mount a small disk")
    path = tmp_path / "disk"
    path.mkdir()
    options = f"size={DISK_BYTES}"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], check=False)
    if mounted.returncode != 0:
        not_here("this machine does not let a small disk be mounted")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def used_bytes(disk: Path) -> int:
    state = os.statvfs(disk)
    return (state.f_blocks - state.f_bfree) * state.f_frsize


def files_below(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def fill(store: FileStore, shas: list[str]) -> None:
    for number in range(DISK_BYTES // 1024):
        sha = store.put_package(number.to_bytes(4, "big") * 8192)
        shas.append(sha)


def fill_with_one_file(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def test_a_full_disk_is_told_and_nothing_of_the_write_stays(small_disk: Path) -> None:
    store = FileStore(small_disk / "store", KEY)
    kept = store.put_package(b"kept")
    before = used_bytes(small_disk)
    with pytest.raises(StorageFullError):
        store.put_package(bytes(2 * DISK_BYTES))
    with store.result_writer("task:1") as writer:
        for _ in range(15):
            writer.write(bytes(DISK_BYTES // 20))
        assert used_bytes(small_disk) > before + DISK_BYTES // 2
        with pytest.raises(StorageFullError):
            writer.write(bytes(DISK_BYTES // 2))
    assert used_bytes(small_disk) == before
    assert len(files_below(small_disk)) == 1
    assert store.package_bytes(kept) == b"kept"


def _put_result(store: FileStore, data: bytes) -> None:
    with store.result_writer("task:1") as writer:
        writer.write(data)
        writer.commit()


def test_small_writes_fail_cleanly_when_full_and_work_again_after_a_deletion(small_disk: Path) -> None:
    store = FileStore(small_disk / "store", KEY)
    _put_result(store, b"first result")
    shas: list[str] = []
    with pytest.raises(StorageFullError):
        fill(store, shas)
    assert len(files_below(small_disk)) == len(shas) + 1
    with pytest.raises(StorageFullError):
        _put_result(store, bytes(DISK_BYTES // 2))
    assert store.result_bytes("task:1") == b"first result"
    assert store.put_package((0).to_bytes(4, "big") * 8192) == shas[0]
    for sha in shas[1:]:
        store.delete_package(sha)
    assert store.package_bytes(store.put_package(b"again")) == b"again"
    assert store.package_bytes(shas[0]) == bytes(32768)


def test_a_disk_that_fills_at_the_commit_leaves_nothing_of_the_result(small_disk: Path) -> None:
    store = FileStore(small_disk / "store", KEY)
    with store.result_writer("task:1") as writer:
        writer.write(bytes(260_000))
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space"):
            fill_with_one_file(filler)
        with pytest.raises(StorageFullError):
            writer.commit()
    assert files_below(small_disk) == [filler]


def test_a_file_size_limit_is_told_as_full_storage(tmp_path: Path) -> None:
    root = tmp_path / "store"
    answer = subprocess.run(
        [sys.executable, "-c", LIMITED, root],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert answer.stdout.split() == ["full", "full"]
    assert len(files_below(root)) == 1
