"""Which targets are told of a task or a job, and whether they were, on one line."""

from __future__ import annotations

from collections.abc import Sequence

from hivemind.told import NotificationInfo
from nodepool.domain.notifications.delivery import DeliveryState


def told_text(told: Sequence[NotificationInfo], names: Sequence[str]) -> str:
    """Of a task or job: its targets, and whether they were told."""
    by_target = {each.target: each for each in told}
    return ", ".join(_told(name, by_target.get(name)) for name in names)


def _told(name: str, told: NotificationInfo | None) -> str:
    if told is None:
        return name
    if told.state == DeliveryState.WAITING:
        return f"{name} (tried, {told.words}; tried again)" if told.words else f"{name} (to be told)"
    if told.state == DeliveryState.SENT:
        return f"{name} (told)"
    return f"{name} ({told.state}: {told.words})"
