"""What `NodePoolClient` can do with targets of notifications: a part of it, and nothing by itself."""

from __future__ import annotations

from hivemind import notify_targets as steps
from hivemind.notify_targets import NotifyTarget, NotifyTargetSet
from hivemind.signed_in import SignedIn
from hivemind.steps import drive
from hivemind.told import NotificationInfo


class NotifyMethods(SignedIn):
    def set_notify_target(self, name: str, url: str, *, rotate: bool = False) -> NotifyTargetSet:
        """Be told at https://…, http://… or mailto:ADDRESS when tasks end that name it (`TaskNeeds.notify`).

        With `rotate` a webhook that is set gets a new key; the one before signs beside it for a day.
        """
        self._need_token()
        return drive(self._gateway, steps.set_steps(name, url, rotate=rotate))

    def notify_targets(self) -> tuple[NotifyTarget, ...]:
        """Your targets by their names, without their keys."""
        self._need_token()
        return drive(self._gateway, steps.list_steps())

    def remove_notify_target(self, name: str) -> str:
        """What waits to be sent there is not sent any more. Raises MissingError where there is none."""
        self._need_token()
        return drive(self._gateway, steps.remove_steps(name))

    def test_notify_target(self, name: str, *, event_id: str = "") -> NotificationInfo:
        """Have something sent there; with the `event_id` of that answer: what has become of it."""
        self._need_token()
        return drive(self._gateway, steps.try_steps(name, event_id))

    def confirm_notify_target(self, name: str, code: str) -> str:
        """That a mail address is yours, by the code that was mailed there."""
        self._need_token()
        return drive(self._gateway, steps.confirm_steps(name, code))
