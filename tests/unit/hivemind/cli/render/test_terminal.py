"""A task's output is shown, not obeyed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from hivemind.cli.render.plain_text import json_line, one_line
from hivemind.cli.render.terminal import OutputFilter
from nodepool.domain.safe_text import harmless, harmless_values


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"plain\ttext\r\n", b"plain\ttext\r\n"),
        ("亞洲 é\n".encode(), "亞洲 é\n".encode()),
        (b"\x1b[1;31mred\x1b[0m", b"\x1b[1;31mred\x1b[0m"),
        (b"a\x1b[2Jb\x1b[10;10Hc", b"abc"),
        (b"\x1b]0;title\x07x", b"x"),
        (b"\x1b]52;c;ZXZpbA==\x1b\\x", b"x"),
        (b"\x1bPq#0\x1b\\x", b"x"),
        (b"\x1b[6nx\x1bcy\x1b(0z", b"xyz"),
        (b"bell\x07back\x08\x00", b"bellback"),
        (b"\xc2\x9b2Jx\xc2\xa7", b"2Jx\xc2\xa7"),
        ("a\u202eb\u2066c\u2069 \u2028 \u05d0".encode(), "abc \u2028 \u05d0".encode()),
    ],
)
def test_colours_pass_and_commands_do_not(raw: bytes, shown: bytes) -> None:
    assert OutputFilter().feed(raw) == shown


@pytest.mark.parametrize("raw", [b"a\x1b[31mb\x1b[2Jc", b"x\x1b]52;c;ZXZp\x07y", b"x\x1b]2;t\x1b\\y\x1b[0m"])
def test_a_sequence_cut_in_pieces_is_the_same_sequence(raw: bytes) -> None:
    whole = OutputFilter().feed(raw)
    pieces = OutputFilter()
    assert b"".join(pieces.feed(bytes([byte])) for byte in raw) == whole


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_whatever_comes_no_escape_but_colours_goes_out(chunks: list[bytes]) -> None:
    screen = OutputFilter()
    shown = b"".join(screen.feed(chunk) for chunk in chunks)
    for part in shown.split(b"\x1b")[1:]:
        assert part.startswith(b"[")
        assert part[1:].lstrip(b"0123456789;:").startswith(b"m")


def test_a_sequence_that_never_ends_does_not_hold_the_output_for_ever() -> None:
    screen = OutputFilter()
    screen.feed(b"\x1b]0;" + b"x" * 10_000)
    assert screen.feed(b"\nvisible\n").endswith(b"visible\n")


def test_text_of_others_stays_on_one_line() -> None:
    assert one_line(" a\nb\x1b[2Jc\x07 ") == "a b [2Jc"


HOSTILE = [
    ("\x1b[31mred\x1b[0m", " [31mred [0m"),
    ("al\u200bice", "al\ufffdice"),
    ("\u202egnp.exe", "\ufffdgnp.exe"),
    ("a\u3164b\u00ad\ufeff", "a\ufffdb\ufffd\ufffd"),
    ("a\u2028b\u00a0c", "a b c"),
    ("z" + "\u0301" * 9, "z" + "\u0301" * 3 + "\ufffd" * 6),
    ("[red]亞洲[/red]", "[red]亞洲[/red]"),
]


@pytest.mark.parametrize(("text", "shown"), HOSTILE)
def test_a_name_never_looks_like_another_one(text: str, shown: str) -> None:
    assert harmless(text) == shown


@given(st.text())
def test_whatever_comes_as_many_characters_are_seen(text: str) -> None:
    shown = harmless(text)
    assert len(shown) == len(text)
    assert shown.isprintable()


@given(st.text())
def test_json_says_the_same_and_tells_no_terminal_anything(text: str) -> None:
    told = json_line({"text": text})
    assert json.loads(told) == {"text": text}
    assert told.isprintable()


def test_colours_of_a_task_end_before_somebody_else_speaks() -> None:
    screen = OutputFilter()
    screen.feed(b"\x1b[8mhidden")
    assert screen.plain() == b"\x1b[0m"
    assert screen.plain() == b""
    screen.feed(b"\x1b[31mred\x1b[0m")
    assert screen.plain() == b""


def test_logs_on_a_terminal_tell_it_nothing_and_keep_their_lines() -> None:
    event = {"event": "ended", "reason": "\x1b[2J\u202ex\nforged", "exception": "one\n\ttwo"}
    shown = {"event": "ended", "reason": " [2J\ufffdx forged", "exception": "one\n two"}
    assert harmless_values(None, "info", event) == shown
