"""The bounded output of a run."""

from __future__ import annotations

import threading

import pytest

from worker_agent.output_buffer import OutputBuffer


def test_output_is_read_back_from_any_offset_in_chunks() -> None:
    buffer = OutputBuffer(100)
    buffer.append(b"hello ")
    buffer.append(b"world")
    assert buffer.chunk(0) == b"hello world"
    assert buffer.chunk(6) == b"world"
    assert buffer.chunk(2, 3) == b"llo"
    assert buffer.size_bytes == 11


def test_beyond_the_end_there_is_nothing() -> None:
    buffer = OutputBuffer(100)
    buffer.append(b"x")
    assert buffer.chunk(1) == b""
    assert buffer.chunk(1000) == b""


def test_output_over_the_limit_is_cut_with_one_notice_and_counted() -> None:
    buffer = OutputBuffer(10)
    buffer.append(b"0123456789abc")
    buffer.append(b"more")
    buffer.append(b"and more")
    text = buffer.chunk(0)
    assert text == b"0123456789\n[output is cut here: only 10 bytes are kept]\n"
    assert buffer.dropped_bytes == 3 + 4 + 8


def test_output_that_just_fits_gets_no_notice() -> None:
    buffer = OutputBuffer(10)
    buffer.append(b"012345678\n")
    assert buffer.chunk(0) == b"012345678\n"
    buffer.append(b"x")
    assert buffer.chunk(0).startswith(b"012345678\n[output is cut")
    assert buffer.dropped_bytes == 1


def test_a_hundred_megabytes_take_no_more_than_the_limit() -> None:
    buffer = OutputBuffer(1000)
    block = b"x" * 1_000_000
    for _ in range(100):
        buffer.append(block)
    assert buffer.size_bytes < 1100
    assert buffer.dropped_bytes == 100_000_000 - 1000


def test_a_waiting_reader_is_woken_by_output_and_by_the_end() -> None:
    buffer = OutputBuffer(100)
    seen: list[bool] = []

    def read() -> None:
        seen.append(buffer.wait_beyond(0, 30))
        seen.append(buffer.wait_beyond(5, 30))

    reader = threading.Thread(target=read)
    reader.start()
    buffer.append(b"12345")
    buffer.close()
    reader.join(30)
    assert seen == [True, False]


def test_waiting_ends_with_its_time() -> None:
    assert not OutputBuffer(10).wait_beyond(0, 0.001)


def test_output_after_the_end_is_ignored() -> None:
    buffer = OutputBuffer(10)
    buffer.close()
    buffer.append(b"late")
    assert (buffer.size_bytes, buffer.dropped_bytes, buffer.closed) == (0, 0, True)


def test_many_writers_lose_nothing() -> None:
    buffer = OutputBuffer(1 << 20)
    writers = [threading.Thread(target=lambda: [buffer.append(b"ab") for _ in range(1000)]) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert buffer.chunk(0, 1 << 20) == b"ab" * 4000


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        OutputBuffer(0)
