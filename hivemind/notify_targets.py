"""Targets of notifications, step by step: for `NodePoolClient`, `Pool` and `AsyncPool`.

What cannot be is refused before anything is sent. Knows no connection.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from hivemind.errors import InvalidInputError, MissingError, UnsupportedError
from hivemind.models import finite
from hivemind.steps import Call, Steps
from hivemind.told import NotificationInfo, notification_from_wire
from nodepool.domain.errors import InvalidInputError as InvalidError
from nodepool.domain.notifications.targets import check_target_name, target_of
from nodepool.protocol import nodepool_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyTarget:
    """Where you are told. What begins with `told` is of the newest try: `told_state` is sent, waiting (it is
    tried again), failed or dropped; None and empty: nothing was sent yet. Times are Unix seconds."""

    name: str
    kind: str  # webhook, mail
    url: str
    set_at: float
    confirmed: bool = True  # of a mail: by its code
    told_at: float | None = None
    told_state: str = ""
    told_words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyTargetSet:
    """`key` signs what a webhook is sent (Standard Webhooks), and is told here alone; empty: as before.
    With `code_is_sent` the address has to be confirmed."""

    message: str
    key: str = field(default="", repr=False)
    code_is_sent: bool = False


def set_steps(name: str, url: str, *, rotate: bool) -> Steps[NotifyTargetSet]:
    try:
        check_target_name(name)
        target_of(url)
    except InvalidError as error:
        raise InvalidInputError(str(error)) from error
    request = pb.SetNotifyTargetRequest(name=name, url=url, rotate=rotate)
    answer = yield from _asked(Call("users", "SetNotifyTarget", request))
    return NotifyTargetSet(message=answer.message, key=answer.key, code_is_sent=answer.code_is_sent)


def list_steps() -> Steps[tuple[NotifyTarget, ...]]:
    answer = yield from _asked(Call("users", "ListNotifyTargets", pb.ListNotifyTargetsRequest()))
    return tuple(
        NotifyTarget(
            name=it.name,
            kind=it.kind,
            url=it.url,
            set_at=finite(it.set_at),
            confirmed=it.confirmed,
            told_at=finite(it.told_at) or None,
            told_state=it.told_state,
            told_words=it.told_words,
        )
        for it in answer.targets
    )


def remove_steps(name: str) -> Steps[str]:
    request = pb.RemoveNotifyTargetRequest(name=_checked(name))
    try:
        answer = yield from _asked(Call("users", "RemoveNotifyTarget", request))
    except MissingError as error:
        if not error.after_unanswered:
            raise
        return f"target {name} is removed"
    return str(answer.message)


def try_steps(name: str, event_id: str = "") -> Steps[NotificationInfo]:
    request = pb.TestNotifyTargetRequest(name=_checked(name), event_id=event_id)
    answer = yield from _asked(Call("users", "TestNotifyTarget", request))
    return notification_from_wire(answer.notification)


def confirm_steps(name: str, code: str) -> Steps[str]:
    if not isinstance(code, str):
        raise InvalidInputError(f"the code is text, as it was mailed, not {type(code).__name__}")
    request = pb.ConfirmNotifyTargetRequest(name=_checked(name), code=code)
    answer = yield from _asked(Call("users", "ConfirmNotifyTarget", request))
    return str(answer.message)


def _checked(name: str) -> str:
    try:
        return check_target_name(name)
    except InvalidError as error:
        raise InvalidInputError(str(error)) from error


def _asked(call: Call) -> Generator[Any, Any, Any]:
    try:
        return (yield call)
    except UnsupportedError:
        raise UnsupportedError("this pool is too old to tell anybody of the end of tasks") from None
