"""What people call their tasks: a name, which several may share, and labels, by which they are found. Pure.

Both are shown in terminals and lists, so every character of them is seen. They decide nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.safe_text import is_plain

MAX_NAME = 128
MAX_LABELS = 32
MAX_KEY = 63
MAX_VALUE = 128
_KEY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?")


def check_name(name: str) -> str:
    """Without blanks around it. Raises InvalidInputError."""
    stripped = name.strip()
    if len(stripped) > MAX_NAME or not is_plain(stripped):
        raise InvalidInputError(f"a task's name has at most {MAX_NAME} printable characters on one line")
    return stripped


def check_labels(labels: Mapping[str, str]) -> None:
    """Raises InvalidInputError."""
    if len(labels) > MAX_LABELS:
        raise InvalidInputError(f"a task takes at most {MAX_LABELS} labels, not {len(labels)}")
    for key, value in labels.items():
        check_label(key, value)


def check_label(key: str, value: str) -> None:
    """Raises InvalidInputError. The value may be empty."""
    if not (isinstance(key, str) and isinstance(value, str)):
        raise InvalidInputError("a label's key and its value are texts")
    if len(key) > MAX_KEY or not _KEY.fullmatch(key):
        shown = key[:MAX_KEY].encode("unicode_escape").decode()
        raise InvalidInputError(
            f"a label's key has at most {MAX_KEY} letters, digits, '.', '_', '-' and '/', and begins and "
            f"ends with a letter or digit; {shown!r} does not"
        )
    if len(value) > MAX_VALUE or not is_plain(value):
        raise InvalidInputError(
            f"the value of label {key} must have at most {MAX_VALUE} printable characters on one line"
        )
