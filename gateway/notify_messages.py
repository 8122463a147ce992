"""Targets of notifications, and what was sent there, as the protocol shows them."""

from __future__ import annotations

from gateway.usecases.notify_targets import SetTarget
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql.notify_targets import StoredTarget


def was_set(done: SetTarget) -> pb.SetNotifyTargetResponse:
    name = done.target.name
    words = f"target {name} is set" if done.is_new else f"target {name} is set anew"
    if done.code_is_sent:
        words += (
            f"; a code is mailed to {done.target.receiver}: `hivemind notify confirm {name} CODE`, and "
            "before that nothing else is sent there"
        )
    elif not done.key:
        words = f"target {name} was set before, with this URL; nothing was changed"
    return pb.SetNotifyTargetResponse(
        success=True, message=words, key=done.key, code_is_sent=done.code_is_sent
    )


def target(row: StoredTarget) -> pb.NotifyTarget:
    return pb.NotifyTarget(
        name=row.name,
        kind=row.kind,
        url=row.url,
        set_at=row.set_at,
        confirmed=row.confirmed_at is not None,
        told_at=row.told_at or 0,
        told_state=row.told_state,
        told_words=row.told_words,
    )
