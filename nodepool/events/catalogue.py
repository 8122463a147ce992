"""Every event of the pool, declared once: docs/events.md is made of this, and a line has these fields only.

An event is something that has happened: SQL has it, and whoever says so was the one who changed it. So each
is told once, however many gateways and dispatchers there are. A field's name means the same in every event
(field_words.py). No field has what a user's program is, reads or prints. Knows no store and no log.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from nodepool.domain.limit_names import LimitName


class Level(StrEnum):
    """`WARNING` where an operator may want to do something."""

    INFO = "info"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`action` is the event's name for programs; `sentence` stands in the line for people."""

    action: ClassVar[str]
    sentence: ClassVar[str]
    words: ClassVar[str]
    level: ClassVar[Level] = Level.INFO

    def fields(self) -> Iterator[tuple[str, object]]:
        return ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class FloodEvent(Event):
    """One that strangers can bring about as often as they like: its lines have a bound, see `telling`."""

    @property
    def of_whom(self) -> str:
        """Whose flood it would be."""
        raise NotImplementedError


# -- nodes -------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class NodeJoined(Event):
    action = "node.joined"
    sentence = "a node joined"
    words = "A node registered that was not in the pool. One that registers again has not joined."

    node: str
    owner_id: int
    kind: str
    region: str
    cpu_score: int
    memory_gb: int
    gpu_score: int
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLate(Event):
    action = "node.late"
    sentence = "a node is late"
    words = "A node was not heard of for NODE_LATE_SECONDS and more, while it could have been."
    level = Level.WARNING

    node: str
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLost(Event):
    action = "node.lost"
    sentence = "a node is lost with its work"
    words = "What ran on a late node was given away."
    level = Level.WARNING

    node: str
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeBack(Event):
    action = "node.back"
    sentence = "a node is back"
    words = "A node that was late is heard of again."

    node: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDrained(Event):
    action = "node.drained"
    sentence = "a node takes no new work"
    words = (
        "Its owner, or its agent before it leaves, said that a node takes no new work; what it has goes on."
    )

    node: str
    owner_id: int
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeUndrained(Event):
    action = "node.undrained"
    sentence = "a node takes work again"
    words = "A node that was drained takes work again."

    node: str
    owner_id: int


class LeaveCause(StrEnum):
    SIGNED_OFF = "signed_off"  # by its agent or its owner; also when its owner is blocked
    SILENT = "silent"  # not heard of for NODE_DAYS
    OWNER_IS_ADMIN = "owner_is_admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLeft(Event):
    action = "node.left"
    sentence = "a node left"
    words = "A node is not in the pool any more. What it still had is given away."

    node: str
    owner_id: int
    cause: LeaveCause


# -- tasks -------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskAccepted(Event):
    action = "task.accepted"
    sentence = "a task is accepted"
    words = "A task was taken in, with what it holds of its owner's CPT. A repeated upload is none."

    task: str
    owner_id: int
    user: str
    tier: str
    region: str
    replicas: int
    price_per_minute: int
    max_minutes: int
    package_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobAccepted(Event):
    action = "job.accepted"
    sentence = "a job is accepted"
    words = "All tasks of a job were taken in. None of them has an event of its own for that."

    job: str
    owner_id: int
    user: str
    kind: str
    tasks: int
    tier: str
    region: str
    price_per_minute: int
    max_minutes: int
    package_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPlaced(Event):
    action = "task.placed"
    sentence = "a task is placed"
    words = "A task, or a run that the pool has of one, was given to a node: this attempt."

    task: str
    attempt: str
    number: int
    node: str
    owner_id: int
    kind: str
    tier: str
    region: str
    wait_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EndFigures(Event):
    """What is told of every end."""

    task: str
    attempt: str = ""
    number: int = 0
    node: str = ""
    owner_id: int
    kind: str
    tier: str
    region: str
    state: str
    outcome: str = ""
    reason: str = ""
    reason_class: str = ""
    exit_code: int | None = None
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    run_seconds: float = 0.0
    cpt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEnded(EndFigures):
    action = "task.ended"
    sentence = "a task ended"
    words = (
        "A user's task came to a final state, with the attempt that it ended with: one line for every task. "
        "Of a task with several runs the attempt is the one whose result it has, and each run has a line of "
        "its own."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedAttempt(EndFigures):
    action = "attempt.ended"
    sentence = "an attempt ended"
    words = (
        "An attempt ended that is not the end of a user's task: the task waits again, or this was one of "
        "several runs, a check or a probe. With `task.ended` there is one line for every attempt that ended."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStopAsked(Event):
    action = "task.stop_asked"
    sentence = "a task is to stop"
    words = "The owner of a task that is on a node asked for its end, which has its own line."

    task: str
    owner_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDeleted(Event):
    action = "task.deleted"
    sentence = "a task is deleted"
    words = "The owner of a task that had ended deleted it with its files."

    task: str
    owner_id: int


# -- people ------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class UserRegistered(Event):
    action = "user.registered"
    sentence = "a user registered"
    words = "An account was made."

    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordChanged(Event):
    action = "user.password_changed"
    sentence = "a user changed the password"
    words = "A password was changed by its owner; the tokens of before have ended."

    user: str


class RefusalCause(StrEnum):
    WRONG = "wrong"  # the name or the password
    BLOCKED = "blocked"
    LIMITED = "limited"  # too many wrong ones before
    OLD_PASSWORD = "old_password"  # noqa: S105 - a wrong one, of who would change it


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginRefused(FloodEvent):
    action = "login.refused"
    sentence = "a login is refused"
    words = (
        "Somebody was not let in. `user` is there only when the account is: people type passwords into the "
        "field of the name."
    )
    level = Level.WARNING

    user: str
    address: str
    cause: RefusalCause

    @property
    def of_whom(self) -> str:
        return self.address


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitHit(FloodEvent):
    action = "limit.hit"
    sentence = "a limit is hit"
    words = "A call was refused, or a connection ended, because somebody has as much as one may have."
    level = Level.WARNING

    limit: LimitName
    user: str
    address: str
    method: str

    @property
    def of_whom(self) -> str:
        return self.user or self.address


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminActed(Event):
    action = "admin.act"
    sentence = "an admin acted"
    words = "What the record of acts has (`hivemind admin acts`), when it has it."

    admin: str
    act: str
    subject: str
    detail: str


# -- the pool itself ---------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class OutageBegan(Event):
    action = "outage.began"
    sentence = "an outage began"
    words = "A part of the pool does not work, as this process finds. Each tells what it finds itself."
    level = Level.WARNING

    observer: str
    part: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutageEnded(Event):
    action = "outage.ended"
    sentence = "an outage ended"
    words = (
        "It works again. A process that stood still itself (`part` is its own name) only knows it then: "
        "there is no line of the beginning."
    )
    level = Level.WARNING

    observer: str
    part: str
    cause: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LinesLeftOut(Event):
    action = "lines.left_out"
    sentence = "lines were left out"
    words = "So many lines of one event were not written, because there were too many in a minute."
    level = Level.WARNING

    of: str
    lines: int


EVENTS: tuple[type[Event], ...] = (
    NodeJoined, NodeLate, NodeLost, NodeBack, NodeDrained, NodeUndrained, NodeLeft,
    TaskAccepted, JobAccepted, TaskPlaced, TaskEnded, EndedAttempt, TaskStopAsked, TaskDeleted,
    UserRegistered, PasswordChanged, LoginRefused, LimitHit, AdminActed,
    OutageBegan, OutageEnded, LinesLeftOut,
)  # fmt: skip
