"""Celery's events as the pool shows them: what is believed of a message that anybody may have written. Pure.

A message is looked at before any library unpacks it. Nothing is passed on as it came: of a good event a new
one is made, of the known fields only, each of its type and within its range. Times and the order of events
are the pool's. This file knows neither the broker nor who shows the events.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from nodepool.domain import bounded_json

# An agent sends at most 24 events at once, each of at most some KiB.
MAX_MESSAGE_BYTES = 64 << 10
MAX_EVENTS = 64
MAX_CLOCK_SKEW_SECONDS = 3600.0
# Up to here an event has the time that its sender gives it, above it that of its arrival.
TRUSTED_SKEW_SECONDS = 15.0
MAX_TEXT_CHARACTERS = 400
AGENT_TASKS = ("worker_agent.execute", "worker_agent.stop")
# What a worker that is not there to be asked says of itself lasts for at most twice this.
_MAX_PERIOD_SECONDS = 60.0
_MAX_COUNT = 1 << 53
_MAX_ENVELOPE_DEPTH = 4
_MAX_BODY_DEPTH = 3
_WORKER = re.compile(r"[\w.+-]{1,64}@[\w.@+/-]{1,140}")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TASK_NAME = re.compile(r"[\w.]{1,100}")
_SOFTWARE = re.compile(r"[\w.+ -]{0,40}")
# Whatever a page does with it, it is no markup there.
_MARKUP = str.maketrans('<>&"`', "?????")

Event = dict[str, Any]


class DropReason(StrEnum):
    """Why an event is shown to nobody."""

    TOO_LARGE = "too_large"
    COMPRESSED = "compressed"
    ENCODING = "encoding"
    UNREADABLE = "unreadable"
    SHAPE = "shape"
    SENDER = "sender"
    TIME = "time"
    FOREIGN_TASK = "foreign_task"
    UNKNOWN_TASK = "unknown_task"
    RATE = "rate"
    BUSY = "busy"
    FAILED = "failed"


class DroppedError(ValueError):
    def __init__(self, reason: DropReason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ParsedMessage:
    """What one message said that can be shown, and why the rest cannot."""

    events: list[Event]
    dropped: list[DropReason]


def parse_message(data: bytes, agent: str, now: float) -> ParsedMessage:
    """`agent` is the worker's name that the message's channel belongs to; empty: one of the pool's own.

    `now` is Unix time.
    """
    try:
        found = _events(data)
    except DroppedError as error:
        return ParsedMessage([], [error.reason])
    events, dropped = [], []
    for event in found:
        try:
            events.append(_checked(event, agent, now))
        except DroppedError as error:
            dropped.append(error.reason)
    return ParsedMessage(events, dropped)


def _events(data: bytes) -> list[Any]:
    if len(data) > MAX_MESSAGE_BYTES:
        raise DroppedError(DropReason.TOO_LARGE)
    envelope = _parsed(data, _MAX_ENVELOPE_DEPTH)
    if not isinstance(envelope, dict):
        raise DroppedError(DropReason.SHAPE)
    headers, properties = envelope.get("headers", {}), envelope.get("properties")
    if not isinstance(headers, dict) or not isinstance(properties, dict):
        raise DroppedError(DropReason.SHAPE)
    if "compression" in headers or "compression" in properties or "compression" in envelope:
        raise DroppedError(DropReason.COMPRESSED)
    kind = (envelope.get("content-type"), envelope.get("content-encoding"), properties.get("body_encoding"))
    if kind != ("application/json", "utf-8", "base64"):
        raise DroppedError(DropReason.ENCODING)
    body = envelope.get("body")
    if not isinstance(body, str):
        raise DroppedError(DropReason.SHAPE)
    try:
        plain = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DroppedError(DropReason.UNREADABLE) from error
    parsed = _parsed(plain, _MAX_BODY_DEPTH)
    events = parsed if isinstance(parsed, list) else [parsed]
    if len(events) > MAX_EVENTS:
        raise DroppedError(DropReason.TOO_LARGE)
    return events


def _parsed(data: bytes, max_depth: int) -> Any:
    try:
        return bounded_json.loads(data, max_bytes=MAX_MESSAGE_BYTES, max_depth=max_depth)
    except ValueError as error:
        raise DroppedError(DropReason.UNREADABLE) from error


def _checked(event: Any, agent: str, now: float) -> Event:
    if not isinstance(event, dict):
        raise DroppedError(DropReason.SHAPE)
    kind, hostname = event.get("type"), event.get("hostname")
    fields = _FIELDS.get(kind) if isinstance(kind, str) else None
    if fields is None or not isinstance(hostname, str):
        raise DroppedError(DropReason.SHAPE)
    if hostname != agent if agent else hostname.startswith("agent@") or not _WORKER.fullmatch(hostname):
        raise DroppedError(DropReason.SENDER)
    checked = {name: check(event.get(name)) for name, check in fields.items()}
    if agent and "name" in checked and checked["name"] not in AGENT_TASKS:
        raise DroppedError(DropReason.SHAPE)
    at = _time(event.get("timestamp"), now)
    told = {name: value for name, value in checked.items() if value is not None}
    return {**told, "type": kind, "hostname": hostname, "timestamp": at, "local_received": now}


def _time(value: Any, now: float) -> float:
    sent = _number(0, 1e12)(value)
    if sent is None:
        raise DroppedError(DropReason.SHAPE)
    if not abs(now - sent) <= MAX_CLOCK_SKEW_SECONDS:
        raise DroppedError(DropReason.TIME)
    return sent if abs(now - sent) <= TRUSTED_SKEW_SECONDS else now


def _number(least: float, most: float) -> Callable[[Any], float | None]:
    def check(value: Any) -> float | None:
        if value is None:
            return None
        # A bool is an int to Python. What is no number is not between two either.
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise DroppedError(DropReason.SHAPE)
        return value

    return check


def _count(most: int = _MAX_COUNT) -> Callable[[Any], int | None]:
    def check(value: Any) -> int | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise DroppedError(DropReason.SHAPE)
        return value

    return check


def _word(pattern: re.Pattern[str], *, needed: bool = False) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        if value is None and not needed:
            return None
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise DroppedError(DropReason.SHAPE)
        return value

    return check


def _text(value: Any) -> str | None:
    """For people only: cut, and without what could be more than words on a page."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise DroppedError(DropReason.SHAPE)
    cut = value[:MAX_TEXT_CHARACTERS].translate(_MARKUP)
    return "".join(character if character.isprintable() else " " for character in cut)


def _flag(value: Any) -> bool:
    return value is True


def _loads(value: Any) -> list[float] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > 3:
        raise DroppedError(DropReason.SHAPE)
    loads = [_number(0, 1e6)(load) for load in value]
    if None in loads:
        raise DroppedError(DropReason.SHAPE)
    return [load for load in loads if load is not None]


_Fields = Mapping[str, Callable[[Any], Any]]
_OF_A_WORKER: _Fields = {
    "pid": _count(1 << 32),
    "freq": _number(0.1, _MAX_PERIOD_SECONDS),
    "active": _count(1_000_000),
    "processed": _count(),
    "loadavg": _loads,
    "sw_ident": _word(_SOFTWARE),
    "sw_ver": _word(_SOFTWARE),
    "sw_sys": _word(_SOFTWARE),
}
_OF_A_TASK: _Fields = {"uuid": _word(_UUID, needed=True), "pid": _count(1 << 32)}
_FAILED: _Fields = {**_OF_A_TASK, "exception": _text, "traceback": _text}
_FIELDS: Mapping[str, _Fields] = {
    "worker-online": _OF_A_WORKER,
    "worker-heartbeat": _OF_A_WORKER,
    "worker-offline": _OF_A_WORKER,
    "task-received": {
        **_OF_A_TASK,
        "name": _word(_TASK_NAME, needed=True),
        "args": _text,
        "kwargs": _text,
        "retries": _count(1_000_000),
        "eta": _text,
        "expires": _text,
    },
    "task-started": _OF_A_TASK,
    "task-succeeded": {**_OF_A_TASK, "result": _text, "runtime": _number(0, 1e9)},
    "task-failed": _FAILED,
    "task-retried": _FAILED,
    "task-revoked": {**_OF_A_TASK, "terminated": _flag, "expired": _flag},
    "task-rejected": {**_OF_A_TASK, "requeue": _flag},
}
EVENT_TYPES = tuple(_FIELDS)
# The last part of the channels that they are published on; a worker sends its tasks' events together.
CHANNEL_ENDS = (*(kind.replace("-", ".") for kind in EVENT_TYPES), "task.multi")
