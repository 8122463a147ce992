"""Logs of the pool's own processes: one set-up for all. Metrics are in nodepool.metrics.

Nothing here knows a request or a task; who logs binds what belongs to a line.
"""

from __future__ import annotations

import io
import itertools
import logging
import re
import secrets
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from functools import cache, lru_cache
from typing import Any, TextIO

import structlog

from nodepool.domain.safe_text import harmless_values, lines

# Set once per request; every log line under it carries it.
request_id: ContextVar[str] = ContextVar("request_id", default="")

_SECRET_WORDS = ("password", "token", "secret", "authorization")
HIDDEN = "(hidden)"

_NEEDS_QUOTES = re.compile(r"""[\s="']""")
_numbers = itertools.count(1)


@cache
def _process_mark() -> str:
    """Made when it is first asked for: processes that were forked from one have marks of their own."""
    return secrets.token_hex(3)


def new_request_id() -> str:
    """Short, and unique among the gateways of a pool."""
    return f"{_process_mark()}{next(_numbers):x}"


def _plain_traceback(target: TextIO, exc_info: Any) -> None:
    told = io.StringIO()
    structlog.dev.plain_traceback(told, exc_info)
    target.write(lines(told.getvalue()))


def _add_request_id(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    current = request_id.get()
    if current:
        event["request"] = current
    return event


def _hide_secrets(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key in event:
        if _is_secret(key):
            event[key] = HIDDEN
    return event


@lru_cache(maxsize=1024)
def _is_secret(key: str) -> bool:
    return any(word in key.lower() for word in _SECRET_WORDS)


def _plain_text(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> str:
    """A line as structlog's console has it, without colours and in a third of the time."""
    told = io.StringIO()
    told.write(f"{event.pop('timestamp', '')} [{event.pop('level', ''):<9}] {event.pop('event', ''):<30}")
    stack, exc_info = event.pop("stack", None), event.pop("exc_info", None)
    exception = event.pop("exception", None)
    for key in sorted(event):
        told.write(f" {key}={_quoted(event[key])}")
    if stack:
        told.write("\n" + str(stack))
    if exception:
        told.write("\n" + str(exception))
    elif exc_info:
        _plain_traceback(told, _exc_info_of(exc_info))
    return told.getvalue()


def _exc_info_of(given: Any) -> Any:
    if isinstance(given, BaseException):
        return type(given), given, given.__traceback__
    return given if isinstance(given, tuple) else sys.exc_info()


def _quoted(value: Any) -> str:
    """What has a blank or more in it stands in quotes, so that no value looks like another field."""
    if isinstance(value, str):
        return repr(value) if _NEEDS_QUOTES.search(value) else value
    return repr(value)


def _colourful() -> Any:
    # Plain tracebacks: the rich ones print the values of variables, and so of secrets.
    return structlog.dev.ConsoleRenderer(colors=True, exception_formatter=_plain_traceback)


def set_up_logging(level: str, *, as_json: bool) -> None:
    """All logs of this process, also of libraries, to stderr: text, or one JSON object a line."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _add_request_id,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _hide_secrets,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    last: list[Any] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if as_json
        else [harmless_values, _colourful() if sys.stderr.isatty() else _plain_text]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("alembic", "sqlalchemy.engine", "asyncio", "kombu"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
