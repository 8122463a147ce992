"""Words of others, made harmless for a terminal and for eyes: the one place where that is decided.

Names, reasons, memos and errors come from strangers and from their machines. Whatever would move a cursor,
colour, hide, reorder or join what is shown is replaced by a mark that is seen, so that no name looks like
another one. Knows neither the connection nor the commands; a task's output is `terminal.py`'s.
"""

from __future__ import annotations

import json
import unicodedata
from typing import Any

from nodepool.words import UNSEEN

_MARK = "\ufffd"
# More accents than any language puts on one letter run over the lines above and below.
_MAX_ACCENTS = 3
_ACCENTS = frozenset({"Mn", "Me"})


def harmless(text: str) -> str:
    """As many characters as before, all of which are seen; a blank for each control and kind of blank."""
    if text.isascii() and text.isprintable():
        return text
    shown = []
    accents = 0
    for character in text:
        accents = accents + 1 if unicodedata.category(character) in _ACCENTS else 0
        shown.append(_MARK if accents > _MAX_ACCENTS else _seen(character))
    return "".join(shown)


def _seen(character: str) -> str:
    if not character.isprintable():
        return " " if character.isspace() or unicodedata.category(character) == "Cc" else _MARK
    return _MARK if UNSEEN.match(character) else character


def one_line(text: str) -> str:
    """Text from elsewhere, on one line and harmless."""
    return harmless(text).strip()


def lines(text: str) -> str:
    """The same of several lines, which stay several."""
    return "\n".join(harmless(line) for line in text.split("\n"))


def json_line(value: Any) -> str:
    """JSON on one line: any reader gets the value, and no terminal is told anything by it."""
    told = json.dumps(value, ensure_ascii=False)
    if told.isascii() and told.isprintable():
        return told
    return "".join(c if c.isprintable() and not UNSEEN.match(c) else _escaped(c) for c in told)


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1]
