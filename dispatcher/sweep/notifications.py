"""Ends that people asked to be told of are found in SQL, written down as notifications, and hinted at.

Whatever ended a task or job: nobody has to think of it there. What is due is hinted at once in each pass, by
one message, until it is sent or given up.
"""

from __future__ import annotations

from dispatcher.context import Dispatcher
from nodepool.domain.notifications.delivery import KEPT_SECONDS
from nodepool.domain.tasks.retention import DAY_SECONDS
from nodepool.messaging.names import NOTIFY_QUEUE
from nodepool.stores.sql import ends_to_tell, notifications
from nodepool.stores.sql.database import Connection
from nodepool.workflows.notifications import tell_of_job, tell_of_task

_AT_ONCE = 200
_REMOVED_AT_ONCE = 500
_MOST_HINTS = 100


class NotificationTeller:
    """For the sweep's thread."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def look(self) -> None:
        """One pass. Raises UnavailableError."""
        database, now = self._dispatcher.database, self._dispatcher.clock()
        tasks, jobs, is_due = database.read(
            lambda c: (
                ends_to_tell.tasks_to_tell(c, _AT_ONCE),
                ends_to_tell.jobs_to_tell(c, _AT_ONCE),
                notifications.is_due(c, now),
            )
        )
        per_minute = self._dispatcher.settings.notifications_per_minute

        def work(connection: Connection) -> int:
            told = sum(tell_of_task(connection, row, now, per_minute=per_minute) for row in tasks)
            return told + sum(tell_of_job(connection, job, now, per_minute=per_minute) for job in jobs)

        told = database.write(work) if tasks or jobs else 0
        if (is_due or told) and self._has_room():
            self._dispatcher.publisher.notify()

    def _has_room(self) -> bool:
        """Where nobody takes hints from the queue, it does not grow."""
        return self._dispatcher.registry.queue_lengths({NOTIFY_QUEUE})[NOTIFY_QUEUE] < _MOST_HINTS


def remove_old(dispatcher: Dispatcher) -> int:
    """Some of those that nobody is shown any more: with the record of their task, or before."""
    now = dispatcher.clock()
    before = max(now - KEPT_SECONDS, dispatcher.settings.retention.tasks_before(now) or 0.0)
    # Codes of a day are counted.
    before = min(before, now - DAY_SECONDS)
    return dispatcher.database.write(lambda c: notifications.remove_old(c, before, _REMOVED_AT_ONCE))
