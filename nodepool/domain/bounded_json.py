"""JSON that a stranger wrote, read only when it is small and flat enough. Pure.

It knows nothing of what the text is about.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

_ESCAPED = re.compile(r"\\.", re.DOTALL)
_STRING = re.compile(r'"[^"]*"')
_BRACKET = re.compile(r"[\[\]{}]")


def loads(data: bytes, *, max_bytes: int, max_depth: int, endless_numbers: bool = False) -> Any:
    """What the text says. Raises ValueError: too large, too deep, no UTF-8, no JSON, or no numbers of JSON.

    `endless_numbers` lets NaN and Infinity through, which are no JSON, to those who look at each number.
    """
    if len(data) > max_bytes:
        raise ValueError("too large")
    text = data.decode()
    if depth(text) > max_depth:
        raise ValueError("too deep")
    try:
        return json.loads(text, parse_constant=None if endless_numbers else _refuse)
    except RecursionError as error:
        raise ValueError("too deep") from error


def depth(text: str) -> int:
    """How deep arrays and objects are in each other, in one pass; of text that is no JSON, some number."""
    bare = _STRING.sub("", _ESCAPED.sub("", text))
    deepest = now = 0
    for bracket in _BRACKET.findall(bare):
        if bracket in "[{":
            now += 1
            deepest = max(deepest, now)
        else:
            now -= 1
    return deepest


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")
