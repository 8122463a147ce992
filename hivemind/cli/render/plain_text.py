"""Words of others for this terminal. Which characters do no harm is said by `nodepool.domain.safe_text`.

Names, reasons, memos and errors come from strangers and from their machines. Knows neither the connection nor
the commands; a task's output is `terminal.py`'s.
"""

from __future__ import annotations

import json
from typing import Any

from nodepool.domain.safe_text import UNSEEN, harmless


def one_line(text: str) -> str:
    """Text from elsewhere, on one line and harmless."""
    return harmless(text).strip()


def json_line(value: Any) -> str:
    """JSON on one line: any reader gets the value, and no terminal is told anything by it."""
    told = json.dumps(value, ensure_ascii=False)
    if told.isascii() and told.isprintable():
        return told
    return "".join(c if c.isprintable() and not UNSEEN.match(c) else _escaped(c) for c in told)


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1]
