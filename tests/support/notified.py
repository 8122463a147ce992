"""A gateway in this process with the dispatcher's side of notifications beside it, on one database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import update

from dispatcher import context
from dispatcher.context import open_secret_box
from dispatcher.notify.sender import NotificationSender
from dispatcher.sweep.notifications import NotificationTeller
from nodepool.domain.tasks.states import TaskState
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql import jobs as job_store, notifications
from nodepool.stores.sql.notifications import StoredNotification
from nodepool.stores.sql.tables import tasks
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.inner_gateway import InnerGateway
from tests.support.valkey import TestValkey

SETTINGS = {
    "storage_key": "k" * 32,
    "push_allowed_networks": "127.0.0.0/8",
    "notify_max_tries": 3,
    "notify_try_seconds": 60,  # long beside what an answer takes here, however busy the machine is
}


class Notified:
    """`ahead` seconds are added to what the clock says: a test waits for nothing."""

    def __init__(self, folder: Path, valkey: TestValkey, **settings: Any) -> None:
        self.inner = InnerGateway(folder, valkey, **{**SETTINGS, **settings})
        self.ahead = 0.0
        # One for both: what the gateway writes down as due now is due.
        self._stood_at: float | None = None

        def clock() -> float:
            now = self.inner.gateway.clock() if self._stood_at is None else self._stood_at
            return now + self.ahead

        self.dispatcher = context.build(self.inner.settings, clock=clock, steady=clock)
        self.sender = NotificationSender(self.dispatcher, open_secret_box(self.inner.settings))
        self.teller = NotificationTeller(self.dispatcher)

    @property
    def database(self) -> Any:
        return self.dispatcher.database

    def begin(self) -> None:
        """The clock goes on, and says what the gateway's says."""
        self.ahead, self._stood_at = 0.0, None

    def stand_still(self) -> None:
        """From now on nothing is due because time goes by; what the gateway writes down is not due either."""
        self._stood_at = self.inner.gateway.clock()

    def set_target(
        self, user: Account, name: str, url: str, *, rotate: bool = False
    ) -> pb.SetNotifyTargetResponse:
        request = pb.SetNotifyTargetRequest(name=name, url=url, rotate=rotate)
        return user.stubs.users.SetNotifyTarget(request, metadata=user.metadata, timeout=CALL_SECONDS)

    def targets(self, user: Account) -> list[pb.NotifyTarget]:
        request = pb.ListNotifyTargetsRequest()
        answer = user.stubs.users.ListNotifyTargets(request, metadata=user.metadata, timeout=CALL_SECONDS)
        return list(answer.targets)

    def remove_target(self, user: Account, name: str) -> None:
        request = pb.RemoveNotifyTargetRequest(name=name)
        user.stubs.users.RemoveNotifyTarget(request, metadata=user.metadata, timeout=CALL_SECONDS)

    def end_task(self, task_id: str, state: TaskState = TaskState.SUCCEEDED, **columns: Any) -> None:
        """As whoever ends it leaves the row."""
        values = {"state": state, "finished_at": self.dispatcher.clock(), "exit_code": 0, **columns}
        self.database.write(lambda c: c.execute(update(tasks).where(tasks.c.id == task_id).values(values)))

    def note_job_end(self, job_id: str) -> None:
        self.database.write(lambda c: job_store.note_end(c, job_id, self.dispatcher.clock()))

    def due(self, *whose: Account) -> list[str]:
        """Of these users."""
        now, ids = self.dispatcher.clock(), {self.inner.user_id(user) for user in whose}
        found = self.database.read(lambda c: notifications.due(c, now, of_one=1000, limit=10_000))
        return [each.id for each in found if each.user_id in ids]

    def send_all(self, *whose: Account) -> int:
        """What the sweep finds and a sender would send now of these users, one after the other."""
        self.teller.look()
        found = self.due(*whose)
        for notification_id in found:
            self.sender.send(notification_id)
        return len(found)

    def of(self, user: Account, subject_id: str) -> list[StoredNotification]:
        user_id = self.inner.user_id(user)
        found: list[StoredNotification] = self.database.read(
            lambda c: notifications.of_subject(c, user_id, subject_id)
        )
        return found

    def close(self) -> None:
        self.sender.close()
        self.dispatcher.close()
        self.inner.close()
