"""What was sent to people's targets, as the protocol shows it."""

from __future__ import annotations

from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql.notifications import StoredNotification


def notification(row: StoredNotification) -> pb.Notification:
    return pb.Notification(
        event_id=row.id,
        target=row.target,
        state=row.state,
        tries=row.tries,
        words=row.words,
        at=row.due_at if row.ended_at is None else row.ended_at,
    )
