"""One notification: taken, sent, and what came of it noted. Any thread's.

Between the taking and the note a sender may die: then the row is due again when its time is over, and is sent
once more with the same id. Who is sent, and whether they still may be, is asked right before.
"""

from __future__ import annotations

import logging
import ssl
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import SystemRandom

from dispatcher.context import Dispatcher
from dispatcher.notify import mail, webhook
from dispatcher.notify.mail import MailServer
from dispatcher.notify.webhook import NotSentError, WebhookReach
from dispatcher.stranger_names import Resolve, resolve
from nodepool.domain.errors import CorruptFileError
from nodepool.domain.notifications.delivery import DeliveryState, NotificationKind, pause_before_next
from nodepool.domain.notifications.letters import letter_of
from nodepool.domain.notifications.signing import code_of, signed_headers
from nodepool.domain.notifications.targets import TargetKind, mail_address_of, webhook_of
from nodepool.metrics import catalogue
from nodepool.settings import Settings
from nodepool.stores.files.secret_box import SecretBox
from nodepool.stores.sql import notifications, notify_targets, users
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.notifications import StoredNotification
from nodepool.stores.sql.notify_targets import StoredTarget
from nodepool.workflows.notifications import TARGET_GONE, key_place

log = logging.getLogger(__name__)
# A sender that has said nothing for so many of its deadlines is gone. Resolving and a mail server's several
# answers have one each.
_DEADLINES = 6
_MAX_WORDS = 300
# A name server that hangs keeps a thread for longer than the try that asked it.
_NAME_THREADS = 24


class _DroppedError(Exception):
    """It is not sent, now and later."""


@dataclass(frozen=True, slots=True)
class _Taken:
    notification: StoredNotification
    target: StoredTarget


class NotificationSender:
    """Thread-safe."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        box: SecretBox,
        lookup: Resolve = resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._dispatcher, self._box = dispatcher, box
        self._settings = dispatcher.settings
        self._names = ThreadPoolExecutor(_NAME_THREADS, "notify-names")
        trust = tls or ssl.create_default_context()
        self._reach = WebhookReach(
            networks=self._settings.push_networks,
            names=self._names,
            lookup=lookup,
            seconds=self._settings.notify_try_seconds,
            tls=trust,
        )
        self._mail = mail_server(self._settings, trust)
        self._chance = SystemRandom().random

    def close(self) -> None:
        self._names.shutdown(wait=False, cancel_futures=True)

    def send(self, notification_id: str) -> None:
        """Where it is still due."""
        database, now = self._dispatcher.database, self._dispatcher.clock()
        until = now + _DEADLINES * self._settings.notify_try_seconds
        try:
            taken = database.write(lambda c: _take(c, notification_id, now, until))
        except _DroppedError as error:
            self._end(notification_id, DeliveryState.DROPPED, str(error))
            return
        if taken is None:
            return
        try:
            words = self._sent(taken, now)
        except NotSentError as error:
            self._failed(taken.notification, str(error)[:_MAX_WORDS])
        except Exception:
            # Else it would be tried for ever.
            log.exception("notification %s failed", notification_id)
            self._failed(taken.notification, "the pool could not send it")
        else:
            self._end(notification_id, DeliveryState.SENT, words[:_MAX_WORDS], taken.target.id)

    def _sent(self, taken: _Taken, now: float) -> str:
        """What was answered. Raises NotSentError."""
        it, target = taken.notification, taken.target
        keys = self._keys(target, now)
        if target.kind is TargetKind.MAIL:
            if self._mail is None:
                raise NotSentError("this pool sends no mail any more: its operator has taken SMTP_HOST out")
            code = code_of(keys[0]) if it.kind is NotificationKind.CODE else ""
            letter = letter_of(it.body, mail.moment, code)
            return mail.send(self._mail, mail_address_of(target.url), letter, it.id, now)
        body = it.body.encode()
        headers = signed_headers(keys, it.id, int(now), body)
        return f"answered {webhook.post(self._reach, webhook_of(target.url), headers, body)}"

    def _keys(self, target: StoredTarget, now: float) -> list[str]:
        """The newest first."""
        sealed = [target.sealed]
        if target.sealed_before is not None and target.before_until > now:
            sealed.append(target.sealed_before)
        place = key_place(target.id)
        try:
            return [self._box.open(target.user_id, place, each) for each in sealed]
        except CorruptFileError:
            raise NotSentError(
                "the pool's STORAGE_KEY is another one since the target was set: "
                f"`hivemind notify set {target.name} URL --rotate` makes a new key"
            ) from None

    def _failed(self, it: StoredNotification, words: str) -> None:
        now, most = self._dispatcher.clock(), self._settings.notify_max_tries
        if it.tries >= most:
            tried = "tried once" if it.tries == 1 else f"tried {it.tries} times"
            self._end(it.id, DeliveryState.FAILED, f"{words} ({tried})"[:_MAX_WORDS], it.target_id)
            return
        at = now + pause_before_next(it.tries, self._chance())

        def work(connection: Connection) -> None:
            notifications.try_again(connection, it.id, it.tries, words, at=at)
            notify_targets.note_told(connection, it.target_id, DeliveryState.WAITING, words, now)

        self._dispatcher.database.write(work)
        catalogue.notifications.labels(_kind(it.receiver), "retried").inc()

    def _end(self, notification_id: str, state: DeliveryState, words: str, target_id: str = "") -> None:
        now = self._dispatcher.clock()

        def work(connection: Connection) -> str:
            found = notifications.find(connection, notification_id)
            if found is None or not notifications.end(connection, notification_id, state, words, now):
                return ""
            if target_id:
                notify_targets.note_told(connection, target_id, state, words, now)
            return _kind(found.receiver)

        if kind := self._dispatcher.database.write(work):
            catalogue.notifications.labels(kind, state).inc()
            log.info("notification %s: %s, %s", notification_id, state, words)


def mail_server(settings: Settings, trust: ssl.SSLContext) -> MailServer | None:
    """None where the operator has set none."""
    if not settings.smtp_host:
        return None
    return MailServer(
        host=settings.smtp_host,
        port=settings.smtp_port,
        tls=settings.smtp_tls,
        sender=settings.smtp_from,
        user=settings.smtp_user,
        password=settings.smtp_password,
        seconds=settings.notify_try_seconds,
        trust=trust,
    )


def _take(connection: Connection, notification_id: str, now: float, until: float) -> _Taken | None:
    """For this try. What may not be sent any more is dropped by whoever took it."""
    it = notifications.take(connection, notification_id, now, until=until)
    if it is None:
        return None
    target = notify_targets.find_by_id(connection, it.target_id)
    if target is None:
        raise _DroppedError(TARGET_GONE)
    account = users.account_status(connection, it.user_id)
    if account is None or account.blocked:
        raise _DroppedError("the account is blocked")
    if target.confirmed_at is None and it.kind is not NotificationKind.CODE:
        raise _DroppedError("the address is not confirmed")
    return _Taken(it, target)


def _kind(receiver: str) -> TargetKind:
    return TargetKind.MAIL if "@" in receiver else TargetKind.WEBHOOK
