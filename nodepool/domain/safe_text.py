"""Which characters a name or a word of others may have, and how words of others are shown. Pure.

Whatever would move a cursor, colour, hide, reorder or join what is shown becomes a blank, or a mark that is
seen, so that no name looks like another one. Clients, logs and the pool's checks ask here, and nowhere else.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import MutableMapping
from typing import Any

_MARK = "\ufffd"
# More accents than any language puts on one letter run over the lines above and below.
_MAX_ACCENTS = 3
_ACCENTS = frozenset({"Mn", "Me"})
# What logs show as it is, and the rest on one line: nobody writes lines of a log but the pool.
_SEVERAL_LINES = frozenset({"event", "exception", "stack"})
# Letters and marks by Unicode's word, and yet nothing is seen of them: joiners of graphemes, fillers,
# variation selectors. Controls, marks of direction and blanks of no width are not printable anyway.
UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def is_plain(text: str) -> bool:
    """Every character of it is seen, on one line and in its order."""
    return text.isprintable() and UNSEEN.search(text) is None


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


def lines(text: str) -> str:
    """The same of several lines, which stay several."""
    return "\n".join(harmless(line) for line in text.split("\n"))


def harmless_values(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A step of structlog's for logs that people read: they have words of strangers in them."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = lines(value) if name in _SEVERAL_LINES else harmless(value)
    return event
