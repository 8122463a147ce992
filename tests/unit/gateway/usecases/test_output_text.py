"""Output as text: the same as all of it at once, whatever bytes it has."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, strategies as st

from gateway.usecases import output_text
from gateway.usecases.output_text import last_lines, text_of

MIB = 1 << 20
PARTS = [
    b"\n", b"\r", b"\r\n", b"\x0b", b"\x1e", b"\xc2\x85", b"\xe2\x80\xa8", b"a", b"bc", b"\xff", "é".encode(),
    "😀".encode(), b"\xe2", b"\x80", b"\xc2", b"\x85", b"\xa8",
]  # fmt: skip


@given(st.lists(st.sampled_from(PARTS), max_size=60).map(b"".join), st.integers(1, 40), st.integers(1, 9))
def test_it_is_what_it_would_be_in_one_piece(data: bytes, most: int, piece_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output_text, "_PIECE_BYTES", piece_bytes)
        whole = data.decode(errors="replace")
        assert text_of(data) == whole
        assert last_lines(data, most) == whole.splitlines()[-most:]


@pytest.mark.parametrize("data", [b"\n" * 4 * MIB, b"ab\r" * MIB, b"\n" * 2 * MIB + b"x" * 2 * MIB])
def test_millions_of_lines_are_not_all_made(data: bytes) -> None:
    tracemalloc.start()
    try:
        assert len(last_lines(data, 1000)) == 1000
        assert tracemalloc.get_traced_memory()[1] < 24 * MIB
    finally:
        tracemalloc.stop()
