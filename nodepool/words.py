"""Which characters a name or a word of others may have: ones that are seen. Pure."""

from __future__ import annotations

import re

# Letters and marks by Unicode's word, and yet nothing is seen of them: joiners of graphemes, fillers,
# variation selectors. Controls, marks of direction and blanks of no width are not printable anyway.
UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def is_plain(text: str) -> bool:
    """Every character of it is seen, on one line and in its order."""
    return text.isprintable() and UNSEEN.search(text) is None
