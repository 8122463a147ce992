"""Where the agent's log goes: standard error, one line an event."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from nodepool.domain.safe_text import harmless_values


def set_up_logging(level_name: str, node_id: str) -> None:
    """Call once, before the first line is logged. Libraries are heard from WARNING on."""
    level = logging.getLevelName(level_name)

    def name_node(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["node_id"] = node_id
        return event

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            name_node,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            harmless_values,
            structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0)
            if sys.stderr.isatty()
            else structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event", "action"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        stream=sys.stderr,
        level=max(level, logging.WARNING),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
