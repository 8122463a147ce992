"""What tests need to read log lines: of this process, and of a part's file."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from nodepool.events import telling


@contextmanager
def restored_logging() -> Iterator[None]:
    """Logging as it was before, whatever is set up within."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    was = structlog.get_config()
    log = telling.log
    telling.log = structlog.get_logger(telling.__name__)
    try:
        yield
    finally:
        telling.log = log
        root.handlers[:], root.level = handlers, level
        structlog.configure(**was)


def events_in(text: str, *actions: str) -> list[dict[str, Any]]:
    """The events of a log in JSON, of these kinds where any are given."""
    found = []
    for line in text.splitlines():
        if not line.startswith("{"):
            continue
        told = json.loads(line)
        if "." in told.get("action", "") and (not actions or told["action"] in actions):
            found.append(told)
    return found
