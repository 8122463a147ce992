"""Which nodes get no work for now, for what they say of themselves or what they refused. Pure.

A node that knows that it can run nothing (a full disk, a dead engine) says so, and is fit again when it
says so. One that takes a task and refuses it for a reason of its own is left alone: 5 s, and twice as long
each time, ten minutes at most, until a run of somebody else's task came to its end there. Refusals that
belong to one task only count when different users' tasks are refused one after the other, and then for a
minute at most: nobody's odd tasks, nor those of a few accounts together, keep an honest node without work;
and a node gains nothing by refusing.

An image that is not there is not asked for again until the node has registered anew, or an hour is over.
A message that was too large for it is nobody's fault: larger ones are not sent to it until it has registered
at another address, has taken one, or an hour is over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from nodepool.domain.nodes import message_limits
from nodepool.domain.tasks.reason_classes import ReasonClass
from nodepool.domain.tasks.reasons import ReasonCode

FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 5.0, 600.0
# Where it belongs to the tasks: their owners may be one person with several accounts.
LONGEST_FOR_TASKS_SECONDS = 60.0
# So many users' tasks in a row may be refused for what belongs to the task.
FORGIVEN_USERS = 2
# After so long without one, refusals begin to count anew.
FORGOTTEN_SECONDS = 3600.0
# What a node does not have, or cannot do for a task, is asked for again after so long.
ASKED_AGAIN_SECONDS = 3600.0
_MOST_DOUBLINGS = 20
_MOST_IMAGES = 50
MAX_UNFIT = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusals:
    """What a node has refused lately. Nobody's are Refusals()."""

    in_row: int = 0
    last_user: int = 0  # whose task it was, of refusals for what belongs to the task
    backoff_until: float = 0.0
    absent_images: Mapping[str, float] = field(default_factory=dict)  # and when it said so
    message_bytes: int = 0  # the largest that it takes, of nodes that are called; 0: not known
    message_bytes_at: float = 0.0  # when it said so

    def backs_off(self, now: float) -> bool:
        # A clock that was set back does not keep anybody away.
        return 0.0 < self.backoff_until - now <= LONGEST_BACKOFF_SECONDS

    def images_absent(self, now: float) -> tuple[str, ...]:
        return tuple(
            sorted(name for name, at in self.absent_images.items() if 0 <= now - at < ASKED_AGAIN_SECONDS)
        )

    def largest_message(self, now: float) -> int:
        """0: not known, or long ago."""
        known = 0 <= now - self.message_bytes_at < message_limits.FORGOTTEN_SECONDS
        return self.message_bytes if known else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An attempt that its node refused. `user_id` and `image` are of the task.

    `message_bytes`: the largest message that the node takes, where that is why.
    """

    reason_class: ReasonClass
    code: ReasonCode
    user_id: int
    image: str
    message_bytes: int = 0


def after_refusal(before: Refusals, refusal: Refusal, now: float) -> Refusals:
    if refusal.code is ReasonCode.IMAGE_ABSENT:
        still = {name: before.absent_images[name] for name in before.images_absent(now)}
        newest = sorted((still | {refusal.image: now}).items(), key=lambda item: -item[1])[:_MOST_IMAGES]
        return replace(before, absent_images=dict(newest))
    if refusal.code is ReasonCode.MESSAGE_TOO_LARGE:
        known = before.largest_message(now)
        least = min(known, refusal.message_bytes) if known else refusal.message_bytes
        return replace(before, message_bytes=least, message_bytes_at=now)
    of_task = refusal.reason_class is ReasonClass.NODE_FOR_TASK
    if refusal.reason_class is not ReasonClass.NODE and not of_task:
        return before
    # Several tasks that were refused at once are one finding.
    if before.backs_off(now) or (of_task and refusal.user_id == before.last_user):
        return before
    forgotten = now - before.backoff_until > FORGOTTEN_SECONDS and before.backoff_until > 0
    in_row = 1 if forgotten else before.in_row + 1
    doublings = min(_MOST_DOUBLINGS, in_row - 1 - (FORGIVEN_USERS if of_task else 0))
    pause = FIRST_BACKOFF_SECONDS * 2**doublings if doublings >= 0 else 0.0
    longest = LONGEST_FOR_TASKS_SECONDS if of_task else LONGEST_BACKOFF_SECONDS
    return replace(
        before,
        in_row=in_row,
        last_user=refusal.user_id if of_task else before.last_user,
        backoff_until=now + min(longest, pause),
    )


def after_run(before: Refusals) -> Refusals:
    """A run of another user's task came to its end there."""
    return replace(before, in_row=0, last_user=0, backoff_until=0.0)


def after_message(before: Refusals, message_bytes: int, taken_at: float) -> Refusals:
    """The node took a message of that size, at that time."""
    if not 0 < before.message_bytes < message_bytes or taken_at < before.message_bytes_at:
        return before
    return replace(before, message_bytes=0, message_bytes_at=0.0)


def images_as_json(images: Mapping[str, float]) -> str:
    return json.dumps(dict(images), separators=(",", ":"), sort_keys=True) if images else ""


def images_from_json(text: str) -> dict[str, float]:
    return {str(name): float(at) for name, at in json.loads(text).items()} if text else {}
