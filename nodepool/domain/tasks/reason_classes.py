"""Whose fault it is that an attempt ended as it did: each reason has a class. Pure.

| class | tried again | counts against |
|---|---|---|
| the task's | only when its owner asks for it | nobody but the task |
| the node's for this task | elsewhere; there when the node has changed | nobody |
| the node's | elsewhere; the node is left alone for a while | history; credit for lost or false work |
| the pool's | anywhere | nobody |

A node that refuses gives a code of `TOLD_BY_NODES`. Agents that know no codes give words; `code_of_words`
knows the sentences that they have ever used, and what it does not know is the node's own fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from nodepool.domain.tasks.reasons import Reason, ReasonCode, because, told
from nodepool.domain.tasks.states import Outcome


class ReasonClass(StrEnum):
    NONE = ""  # nothing went wrong
    TASK = "task"
    NODE_FOR_TASK = "node_for_task"
    NODE = "node"
    POOL = "pool"


_CODES: Mapping[ReasonClass, tuple[ReasonCode, ...]] = {
    ReasonClass.NODE_FOR_TASK: (
        ReasonCode.OWNER_ONLY,
        ReasonCode.NOT_ABLE,
        ReasonCode.NOT_TRUSTED,
        ReasonCode.IMAGE_ABSENT,
        ReasonCode.OTHER_PLATFORM,
        ReasonCode.TOO_LITTLE_DISK,
        ReasonCode.CANNOT_GIVE,
        ReasonCode.ENGINE_REFUSED,
        ReasonCode.PACKAGE_NOT_WHOLE,
        ReasonCode.MESSAGE_TOO_LARGE,
    ),
    ReasonClass.NODE: (
        ReasonCode.DISK_FULL,
        ReasonCode.ENGINE_AWAY,
        ReasonCode.NODE_FAILED,
        ReasonCode.NODE_BUSY,
        ReasonCode.NODE_LEAVING,
        ReasonCode.NODE_LEFT,
        ReasonCode.NODE_LATE,
        ReasonCode.NEVER_BEGUN,
        ReasonCode.NOT_LISTED,
        ReasonCode.IDLE,
        ReasonCode.NOT_CALLED,
        ReasonCode.CALL_UNANSWERED,
        ReasonCode.CALL_UNANSWERED_FOR,
        ReasonCode.CALL_FAILED,
        ReasonCode.SILENT,
        ReasonCode.REFUSED_BY_NODE,
        ReasonCode.NO_RESULT,
    ),
    ReasonClass.POOL: (
        ReasonCode.EVICTED,
        ReasonCode.RESTORED,
        ReasonCode.POOL_AWAY,
        ReasonCode.NEVER_CALLED,
        ReasonCode.PACKAGE_UNREADABLE,
        ReasonCode.NOT_NEEDED,
    ),
}
NODE_FOR_TASK_CODES = frozenset(_CODES[ReasonClass.NODE_FOR_TASK])
_CLASS_OF = {code: reason_class for reason_class, codes in _CODES.items() for code in codes}
# What a node may say of itself when it refuses an attempt, or has lost it.
TOLD_BY_NODES = frozenset(
    {
        ReasonCode.IMAGE_ABSENT,
        ReasonCode.OTHER_PLATFORM,
        ReasonCode.TOO_LITTLE_DISK,
        ReasonCode.CANNOT_GIVE,
        ReasonCode.ENGINE_REFUSED,
        ReasonCode.PACKAGE_NOT_WHOLE,
        ReasonCode.DISK_FULL,
        ReasonCode.ENGINE_AWAY,
        ReasonCode.NODE_FAILED,
        ReasonCode.NODE_BUSY,
        ReasonCode.NODE_LEAVING,
    }
)
_HANDED_BACK = frozenset({Outcome.REFUSED, Outcome.LOST})
_NO_SPACE = ("no space left on device", "disk quota exceeded")
# Sentences of agents that send no code, in the order in which they are looked for.
_SENTENCES = (
    ("the node's disk is full", ReasonCode.DISK_FULL),
    ("is not on this node, which never pulls images", ReasonCode.IMAGE_ABSENT),
    ("is not one that this pool allows", ReasonCode.CANNOT_GIVE),
    ("this pool does not give tasks the network", ReasonCode.CANNOT_GIVE),
    ("and so without its gpu", ReasonCode.CANNOT_GIVE),
    ("this node runs its owner's tasks only", ReasonCode.CANNOT_GIVE),
    ("exec format error", ReasonCode.OTHER_PLATFORM),
    ("does not match the specified platform", ReasonCode.OTHER_PLATFORM),
    ("the package did not arrive whole", ReasonCode.PACKAGE_NOT_WHOLE),
    ("the container engine refused the task", ReasonCode.ENGINE_REFUSED),
    ("the container engine", ReasonCode.ENGINE_AWAY),
    ("no container engine answers", ReasonCode.ENGINE_AWAY),
    ("the node has no room for more tasks", ReasonCode.NODE_BUSY),
    ("this node is not enrolled yet", ReasonCode.NODE_BUSY),
    ("the node is shutting down", ReasonCode.NODE_LEAVING),
)


def class_of(outcome: Outcome, code: ReasonCode) -> ReasonClass:
    """Of an attempt that ended so."""
    if outcome in _HANDED_BACK:
        return _CLASS_OF.get(code, ReasonClass.NODE)
    if outcome is not Outcome.FAILED:
        return ReasonClass.NONE
    return ReasonClass.POOL if code is ReasonCode.SECRET_UNREADABLE else ReasonClass.TASK


def class_of_stored(outcome: Outcome, code: str) -> ReasonClass:
    """`code` as SQL has it, which may be of a later version."""
    known = ReasonCode(code) if code in set(ReasonCode) else ReasonCode.TOLD
    return class_of(outcome, known)


def told_by_node(outcome: Outcome, code: str, words: str) -> Reason:
    """What a node says of the end of an attempt. One that only makes sense of a refusal is taken of that."""
    if outcome not in _HANDED_BACK:
        return told(words)
    known = next((it for it in TOLD_BY_NODES if it == code), None) or code_of_words(words)
    return told(words) if known is None else because(known, detail=words)


def code_of_words(words: str) -> ReasonCode | None:
    """Of an agent that sends no codes."""
    lowered = words.lower()
    if any(said in lowered for said in _NO_SPACE):
        return ReasonCode.DISK_FULL
    return next((code for said, code in _SENTENCES if said in lowered), None)
