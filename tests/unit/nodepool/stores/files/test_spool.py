from __future__ import annotations

import io
import os
import random
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings, strategies as st

from nodepool.domain.errors import CorruptFileError
from nodepool.stores.files.encryption import FRAME_BYTES
from nodepool.stores.files.spool import SealedSpool

WORDS = b"what nobody else may read. "


def unnamed_files(folder: Path) -> list[int]:
    """This process's descriptors of files that are in the folder and have no name there."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:
            continue
        if target.startswith(str(folder)) and "deleted" in target:
            found.append(int(link.name))
    return found


@given(
    st.lists(st.sampled_from([1, 1000, FRAME_BYTES - 1, FRAME_BYTES, 3 * FRAME_BYTES]), max_size=6),
    st.lists(st.tuples(st.integers(0, 9 * FRAME_BYTES), st.integers(-1, 2 * FRAME_BYTES)), max_size=8),
    st.sampled_from([0, 1000, 4 * FRAME_BYTES]),
)
@settings(max_examples=60, deadline=None)
def test_it_reads_as_memory_does(sizes: list[int], reads: list[tuple[int, int]], memory_bytes: int) -> None:
    with TemporaryDirectory() as folder, SealedSpool(Path(folder), memory_bytes) as spool:
        memory = io.BytesIO()
        for size in sizes:
            piece = random.Random(size).randbytes(size)
            assert spool.write(piece) == memory.write(piece)
        assert spool.tell() == memory.tell() == spool.size
        for offset, size in reads:
            assert spool.seek(offset) == memory.seek(offset)
            assert spool.read(size) == memory.read(size)
            assert spool.tell() == memory.tell()
        assert spool.seek(0, os.SEEK_END) == memory.seek(0, os.SEEK_END)
        assert list(Path(folder).iterdir()) == []


def test_what_it_has_on_the_disk_is_not_readable(tmp_path: Path) -> None:
    with SealedSpool(tmp_path) as spool:
        spool.write(WORDS * (3 << 20 >> 4))
        (descriptor,) = unnamed_files(tmp_path)
        stored = os.pread(descriptor, 8 << 20, 0)
        assert len(stored) > 2 << 20
        assert WORDS not in stored
        spool.seek(1 << 20)
        assert WORDS in spool.read(100)
    assert unnamed_files(tmp_path) == []


def test_few_bytes_never_reach_the_disk(tmp_path: Path) -> None:
    with SealedSpool(tmp_path) as spool:
        spool.write(WORDS)
        assert unnamed_files(tmp_path) == []
        spool.seek(0)
        assert spool.read() == WORDS


def test_a_changed_and_a_cut_file_are_found(tmp_path: Path) -> None:
    for change in (lambda fd: os.pwrite(fd, b"xx", FRAME_BYTES + 100), lambda fd: os.ftruncate(fd, 70_000)):
        with SealedSpool(tmp_path, 0) as spool:
            spool.write(bytes(3 * FRAME_BYTES))
            (descriptor,) = unnamed_files(tmp_path)
            change(descriptor)
            spool.seek(0)
            with pytest.raises(CorruptFileError):
                spool.read()


def test_a_zip_is_read_from_it(tmp_path: Path) -> None:
    with SealedSpool(tmp_path, 0) as spool:
        plain = io.BytesIO()
        content = random.Random(1).randbytes(5 * FRAME_BYTES)
        with zipfile.ZipFile(plain, "w") as archive:
            archive.writestr("main.py", "print(1)")
            archive.writestr("data.bin", content)
        spool.write(plain.getvalue())
        with zipfile.ZipFile(spool) as archive:
            assert archive.testzip() is None
            assert archive.read("data.bin") == content


def test_it_grows_at_its_end_only_and_ends_for_good(tmp_path: Path) -> None:
    spool = SealedSpool(tmp_path, 0)
    spool.write(bytes(FRAME_BYTES))
    spool.seek(0)
    with pytest.raises(ValueError, match="at its end"):
        spool.write(b"x")
    spool.close()
    spool.close()
    for use in (lambda: spool.read(1), lambda: spool.write(b"x"), lambda: spool.seek(0), spool.tell):
        with pytest.raises(ValueError, match="closed"):
            use()
