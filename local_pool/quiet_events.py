"""Commands on the pool's host answer on standard output: what happens in the pool by them is not told there.

The parts tell their events in their logs, and are set up for that; a command has no log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog


@contextmanager
def without_events() -> Iterator[None]:
    """Warnings are still told."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    try:
        yield
    finally:
        structlog.configure(**before)
