"""A sealed file that is read from anywhere with a key of its own."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from nodepool.domain.errors import CorruptFileError
from nodepool.stores.files.encryption import FRAME_BYTES, SealedReader, key_of, plain_bytes, seal

KEY, OTHER = b"k" * 32, b"o" * 32


def _sealed(folder: Path, plain: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(seal(KEY, "result/t:1", plain))
    return path


@given(
    st.integers(0, 3 * FRAME_BYTES),
    st.lists(st.tuples(st.integers(0, 3 * FRAME_BYTES), st.integers(0, 9000))),
)
@settings(max_examples=30, deadline=None)
def test_it_reads_what_was_sealed(size: int, reads: list[tuple[int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plain = os.urandom(size)
        path = _sealed(Path(folder), plain)
        assert plain_bytes(path.stat().st_size) == size
        with io.BufferedReader(SealedReader(key_of(KEY, "result/t:1", str(path)))) as file:
            for start, length in reads:
                file.seek(start)
                assert file.read(length) == plain[start : start + length]
            assert file.seek(0, os.SEEK_END) == size
            file.seek(0)
            assert file.read() == plain


def test_another_file_a_cut_one_and_a_changed_one_are_found(tmp_path: Path) -> None:
    path = _sealed(tmp_path, os.urandom(2 * FRAME_BYTES + 7))
    for key, name in ((OTHER, "result/t:1"), (KEY, "result/t:2")):
        with pytest.raises(CorruptFileError):
            key_of(key, name, str(path))
    sealed = key_of(KEY, "result/t:1", str(path))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 23])
    with pytest.raises(CorruptFileError):
        SealedReader(sealed)
    path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    with SealedReader(sealed) as reader, pytest.raises(CorruptFileError):
        reader.read(10)
    # Another file in its place has another key.
    path.write_bytes(seal(KEY, "result/t:1", b"another"))
    with pytest.raises(CorruptFileError):
        SealedReader(sealed)
