"""Files of variables are read as docker's --env-file."""

from __future__ import annotations

import pytest

from hivemind.env_file import parse
from hivemind.errors import RefusedError

CALLERS = {"MINE": "my own"}


def read(text: str) -> dict[str, str]:
    return parse(text.encode(), CALLERS, "file").variables


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("A=1\nB=2", {"A": "1", "B": "2"}),
        ("# nothing\n\n   # nothing either\n  A=1\n", {"A": "1"}),
        ("A=1 # part of it", {"A": "1 # part of it"}),
        ("A=x=y ", {"A": "x=y "}),
        ("A=", {"A": ""}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("\ufeffA=1", {"A": "1"}),
        ("MINE\nNOT_THERE", {"MINE": "my own"}),
        ("A=1\nA=2", {"A": "2"}),
        ("A=\u2028x\x0b", {"A": "\u2028x\x0b"}),
    ],
)
def test_a_line_is_a_variable(text: str, variables: dict[str, str]) -> None:
    assert read(text) == variables


@pytest.mark.parametrize("text", ["=1", "A=1\nexport B=2", "A B=1"])
def test_a_line_without_a_name_is_refused_with_its_number(text: str) -> None:
    with pytest.raises(
        RefusedError, match=f"file, line {text.count(chr(10)) + 1}: there is no variable's name"
    ):
        read(text)


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(RefusedError, match="not UTF-8"):
        parse(b"A=\xff", {}, "file")
    with pytest.raises(RefusedError, match="more than 1 MiB"):
        parse(b"#" * ((1 << 20) + 1), {}, "file")


def test_quotes_stay_and_it_is_told() -> None:
    done = parse(b"A=\"x\"\nB='y'\nC=it's", {}, "file")
    assert done.variables == {"A": '"x"', "B": "'y'", "C": "it's"}
    assert done.warnings == (
        "file: the quotes around the value of A, B are part of it, as in docker's --env-file",
    )
