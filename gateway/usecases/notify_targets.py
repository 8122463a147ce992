"""Targets of notifications: set, listed, removed, tried and confirmed, and what a task may say of them.

Use cases, with no gRPC in them. Names, URLs and their bounds: `nodepool.domain.notifications.targets`.
Nothing is called from here: what is to be sent is written down, and the dispatcher sends it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from nodepool.domain.errors import (
    CorruptFileError,
    InvalidInputError,
    NotFoundError,
    RateLimitedError,
    StateConflictError,
)
from nodepool.domain.limit_names import LimitName
from nodepool.domain.nodes.push_addresses import check_reachable
from nodepool.domain.notifications import events
from nodepool.domain.notifications.delivery import (
    BOTH_KEYS_SECONDS,
    MAX_CODES_PER_ADDRESS,
    MAX_CODES_PER_USER,
    MAX_WRONG_CODES,
    MINUTE_SECONDS,
    NotificationKind,
    first_try_at,
)
from nodepool.domain.notifications.signing import KEY_BYTES, is_code, key_text
from nodepool.domain.notifications.targets import (
    MAX_OF_USER,
    TargetKind,
    WantedTarget,
    check_are_set,
    check_target_name,
    target_of,
    webhook_of,
)
from nodepool.domain.tasks.dependencies import from_lines, to_lines
from nodepool.domain.tasks.retention import DAY_SECONDS
from nodepool.stores.sql import notifications, notify_targets as target_store
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.notifications import StoredNotification
from nodepool.stores.sql.notify_targets import StoredTarget
from nodepool.workflows.notifications import key_place, write

_ID_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTarget:
    """`key` signs what a webhook is sent, and is told here alone; empty: it is the one that it was."""

    target: StoredTarget
    key: str
    is_new: bool
    code_is_sent: bool


def put(gateway: Gateway, owner: CallerIdentity, name: str, url: str, *, rotate: bool) -> SetTarget:
    """Raises InvalidInputError, StateConflictError, RateLimitedError."""
    check_target_name(name)
    wanted = target_of(url)
    if wanted.kind is TargetKind.MAIL:
        _check_mail(gateway, rotate=rotate)
    else:
        check_reachable(webhook_of(url).host, networks=gateway.settings.push_networks, what="this webhook")
    made = gateway.database.write(lambda c: _put(c, gateway, owner, name, wanted, rotate=rotate))
    if made.code_is_sent:
        gateway.publisher.notify()
    return made


def _check_mail(gateway: Gateway, *, rotate: bool) -> None:
    if not gateway.settings.smtp_host:
        raise StateConflictError(
            "this pool sends no mail: its operator has set no SMTP_HOST; take a webhook (https://…)"
        )
    if rotate:
        raise InvalidInputError("mails are not signed: --rotate is for webhooks")


def _put(
    connection: Connection,
    gateway: Gateway,
    owner: CallerIdentity,
    name: str,
    wanted: WantedTarget,
    *,
    rotate: bool,
) -> SetTarget:
    now, user_id = gateway.clock(), owner.user_id
    target_store.lock(connection, user_id)
    found = target_store.find(connection, user_id, name)
    if found is None:
        _check_room(connection, user_id)
    is_same = found is not None and found.url == wanted.url
    if found is not None and is_same and not rotate and found.confirmed_at is not None:
        return SetTarget(target=found, key="", is_new=False, code_is_sent=False)
    key = key_text(secrets.token_bytes(KEY_BYTES))
    target_id = found.id if found is not None else secrets.token_hex(_ID_BYTES)
    is_mail = wanted.kind is TargetKind.MAIL
    keeps_before = found is not None and is_same and not is_mail
    target = StoredTarget(
        id=target_id,
        user_id=user_id,
        name=name,
        kind=wanted.kind,
        url=wanted.url,
        receiver=wanted.receiver,
        sealed=gateway.secret_box.seal(user_id, key_place(target_id), key),
        sealed_before=found.sealed if found is not None and keeps_before else None,
        before_until=now + BOTH_KEYS_SECONDS if keeps_before else 0.0,
        set_at=now,
        confirmed_at=None if is_mail else now,
        wrong_codes=0,
        told_at=found.told_at if found is not None and is_same else None,
        told_state=found.told_state if found is not None and is_same else "",
        told_words=found.told_words if found is not None and is_same else "",
    )
    target_store.put(connection, target)
    if is_mail:
        _send_code(connection, gateway, owner, target, now)
    return SetTarget(target=target, key="" if is_mail else key, is_new=found is None, code_is_sent=is_mail)


def _check_room(connection: Connection, user_id: int) -> None:
    have = len(target_store.of_user(connection, user_id))
    if have >= MAX_OF_USER:
        raise RateLimitedError(
            f"you have {have} targets for notifications, as many as a user may have: remove one with "
            "`hivemind notify rm NAME`",
            limit=LimitName.NOTIFY_TARGETS,
        )


def _send_code(
    connection: Connection, gateway: Gateway, owner: CallerIdentity, target: StoredTarget, now: float
) -> None:
    """Whoever has the address may not know of it: so few in a day, whoever asks for them."""
    since = now - DAY_SECONDS
    if (
        notifications.count_codes(connection, target.receiver, since) >= MAX_CODES_PER_ADDRESS
        or notifications.count_codes_of(connection, target.user_id, since) >= MAX_CODES_PER_USER
    ):
        raise RateLimitedError(
            "so many codes were mailed to this address, or for you, in a day that no other is; try again "
            "tomorrow",
            limit=LimitName.NOTIFY_CODES,
        )
    body = events.body_of_code(target.name, owner.username, now)
    per_minute = gateway.settings.notifications_per_minute
    write(connection, target, NotificationKind.CODE, body, now, per_minute=per_minute)


def list_own(gateway: Gateway, owner: CallerIdentity) -> Sequence[StoredTarget]:
    """By their names."""
    return gateway.database.read(lambda c: target_store.of_user(c, owner.user_id))


def remove(gateway: Gateway, owner: CallerIdentity, name: str) -> None:
    """What waits to be sent there is not sent any more. Raises NotFoundError."""
    check_target_name(name)
    if not gateway.database.write(lambda c: target_store.remove(c, owner.user_id, name)):
        raise _no_target(name)


def begin_test(gateway: Gateway, owner: CallerIdentity, name: str) -> StoredNotification:
    """Raises NotFoundError, InvalidInputError, RateLimitedError."""
    check_target_name(name)
    now, per_minute = gateway.clock(), gateway.settings.notifications_per_minute

    def work(connection: Connection) -> StoredNotification:
        target = check_named(connection, owner.user_id, [name])[name]
        earlier = notifications.first_due_before(connection, owner.user_id, per_minute)
        wait = first_try_at(now, earlier) - now
        if wait > MINUTE_SECONDS:
            raise RateLimitedError(
                f"so many notifications of yours wait that this one would be sent in {wait:.0f} s",
                retry_after_seconds=wait,
                limit=LimitName.NOTIFICATIONS,
            )
        body = events.body_of_test(name, owner.username, now)
        event_id = write(connection, target, NotificationKind.TEST, body, now, per_minute=per_minute)
        return _own(connection, owner, event_id)

    begun = gateway.database.write(work)
    gateway.publisher.notify()
    return begun


def look_at_test(gateway: Gateway, owner: CallerIdentity, event_id: str) -> StoredNotification:
    """Raises NotFoundError."""
    return gateway.database.read(lambda c: _own(c, owner, event_id))


def _own(connection: Connection, owner: CallerIdentity, event_id: str) -> StoredNotification:
    found = notifications.find(connection, event_id)
    if found is None or found.user_id != owner.user_id:
        raise NotFoundError("you have no such notification")
    return found


def confirm(gateway: Gateway, owner: CallerIdentity, name: str, code: str) -> bool:
    """Whether it is now that it is confirmed. Raises NotFoundError, InvalidInputError, StateConflictError."""
    check_target_name(name)
    now = gateway.clock()

    def work(connection: Connection) -> StoredTarget:
        target_store.lock(connection, owner.user_id)
        found = target_store.find(connection, owner.user_id, name)
        if found is None:
            raise _no_target(name)
        if found.confirmed_at is not None:
            return found
        if found.wrong_codes >= MAX_WRONG_CODES:
            raise StateConflictError(
                f"so many wrong codes were told for {name} that none is taken any more: `hivemind notify set "
                f"{name} {found.url}` mails a new one"
            )
        if is_code(_key_of(gateway, found), code):
            target_store.confirm(connection, found.id, now)
            return replace(found, confirmed_at=now)
        target_store.count_wrong_code(connection, found.id)
        return found

    found = gateway.database.write(work)
    if found.confirmed_at is None:
        raise InvalidInputError(f"that is not the code that was mailed to {found.receiver}")
    return found.confirmed_at == now


def _key_of(gateway: Gateway, target: StoredTarget) -> str:
    try:
        return gateway.secret_box.open(target.user_id, key_place(target.id), target.sealed)
    except CorruptFileError:
        raise StateConflictError(
            f"the pool's STORAGE_KEY is another one since {target.name} was set: `hivemind notify set "
            f"{target.name} {target.url}` mails a new code"
        ) from None


def check_wanted(connection: Connection, owner_id: int, notify: str) -> None:
    """`notify` as a task has it. Raises NotFoundError and InvalidInputError."""
    if notify:
        check_named(connection, owner_id, from_lines(notify))


def check_named(connection: Connection, owner_id: int, names: Sequence[str]) -> Mapping[str, StoredTarget]:
    """All that the owner has. Raises NotFoundError and InvalidInputError."""
    known = {it.name: it for it in target_store.of_user(connection, owner_id)}
    check_are_set(names, known, [name for name, it in known.items() if it.confirmed_at is None])
    return known


def still_set(gateway: Gateway, owner: CallerIdentity, notify: str) -> str:
    """Of a task that is done again: those that can still be told."""
    if not notify:
        return ""
    found = gateway.database.read(lambda c: target_store.of_names(c, owner.user_id, from_lines(notify)))
    known = {it.name for it in found if it.confirmed_at is not None}
    return to_lines([name for name in from_lines(notify) if name in known])


def told(gateway: Gateway, owner_id: int, subject_id: str, notify: str) -> Sequence[StoredNotification]:
    """What became of the notifications of a task or job that asks for some."""
    if not notify:
        return ()
    return gateway.database.read(lambda c: notifications.of_subject(c, owner_id, subject_id))


def _no_target(name: str) -> NotFoundError:
    return NotFoundError(f"you have no target {name} for notifications")
