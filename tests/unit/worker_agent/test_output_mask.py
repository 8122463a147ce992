"""Values of secrets in what a run prints: found in whatever pieces they come, and nothing else is touched."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, strategies as st

from worker_agent.output_mask import PIECE_BYTES, OutputMask, masked_text

LONG = "0123456789abcdefghijklmnopqrstuvwxyz-ABCDEFG"
KEY = "-----BEGIN KEY-----\nfirst-line-of-it\n  second line\nend\n-----END KEY-----\n"
# Few letters, so that values are in each other, repeat and overlap.
letters = st.text("ab", max_size=40)
values = st.lists(st.text("ab", min_size=4, max_size=40), min_size=1, max_size=3)


def masked(secrets: list[str], *pieces: bytes) -> bytes:
    out: list[bytes] = []
    mask = OutputMask(secrets, out.append)
    for piece in pieces:
        mask.feed(piece)
    mask.close()
    return b"".join(out)


@pytest.mark.parametrize(
    ("secrets", "printed", "shown"),
    [
        ([], b"anything\xff", b"anything\xff"),
        (["s3cret!"], b"a s3cret! b s3cret!s3cret! c", b"a *** b *** c"),
        (["s3cret!"], b"s3cre s3cret s3CRET!\xff", b"s3cre s3cret s3CRET!\xff"),
        (["abc"], b"abc abc", b"abc abc"),  # too short to be told from words
        ([LONG], f"<{LONG}>".encode(), b"<***>"),
        ([LONG], LONG[:PIECE_BYTES].encode() + b" " + LONG[-PIECE_BYTES:].encode(), b"*** ***"),
        (["abcd", "abcdefgh"], b"abcdefgh abcdef.", b"*** ***ef."),
        (["p\u00e4ss"], "<p\u00e4ss>".encode(), b"<***>"),
        (["abcdef"], b"up to abcde", b"up to ***"),  # cut off: most of it is there
        (["abcdef"], b"up to abc", b"up to abc"),
    ],
)
def test_values_are_masked_and_the_rest_is_as_it_was(
    secrets: list[str], printed: bytes, shown: bytes
) -> None:
    assert masked(secrets, printed) == shown


def test_each_line_of_a_value_is_masked_where_it_stands_alone() -> None:
    shown = masked([KEY], b"1: first-line-of-it\r\n2: second line\n3: " + KEY.encode())
    assert b"line" not in shown
    assert b"KEY" not in shown
    assert shown.startswith(b"1: ***\r\n2: ***\n3: ***\n")


@given(values, st.lists(st.sampled_from(["a", "b", "x", "|"]) | letters, max_size=8), st.data())
def test_however_the_output_comes_no_value_is_in_it_and_it_reads_the_same(
    secrets: list[str], parts: list[str], data: st.DataObject
) -> None:
    whole = "".join(part + (secrets[0] if index % 2 else "") for index, part in enumerate(parts)).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[begin:end] for begin, end in itertools.pairwise([0, *cuts, len(whole)])]
    shown = masked(secrets, *pieces)
    assert shown == masked(secrets, whole)
    assert not any(secret.encode() in shown for secret in secrets)


def test_what_cannot_be_the_beginning_of_a_value_does_not_wait() -> None:
    out: list[bytes] = []
    mask = OutputMask(["s3cret!"], out.append)
    mask.feed(b"50 %")
    mask.feed(b"\r60 % s3c")
    assert b"".join(out) == b"50 %\r60 % "
    mask.feed(b"ond")
    assert b"".join(out) == b"50 %\r60 % s3cond"


def test_a_reason_is_masked_too() -> None:
    assert masked_text("pip: https://u:s3cret!@host failed", ["s3cret!"]) == "pip: https://u:***@host failed"
