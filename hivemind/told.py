"""What became of a notification, as the SDK answers it. Knows the protocol's message, and no connection."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nodepool.protocol import nodepool_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationInfo:
    """One notification; `state` is waiting, sent, failed or dropped, `words` what came of the newest try."""

    target: str
    state: str
    tries: int = 0
    words: str = ""
    at: float | None = None  # when it was sent or given up; while it waits: when it is tried next
    event_id: str = ""


def notification_from_wire(told: pb.Notification) -> NotificationInfo:
    return NotificationInfo(
        target=told.target,
        state=told.state,
        tries=told.tries,
        words=told.words,
        at=told.at if told.at and math.isfinite(told.at) else None,
        event_id=told.event_id,
    )
