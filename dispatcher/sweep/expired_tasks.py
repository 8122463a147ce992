"""What ended tasks keep goes after RESULT_DAYS, LOG_DAYS and TASK_DAYS, and what owners deleted goes now.

A page at a time, oldest first. Each step first says in SQL what is gone, and then removes the file; whatever
breaks off in between stays due in SQL and is done again (workflows/stored_files.py). Rows go last.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from dispatcher.context import Dispatcher
from nodepool.domain.errors import CorruptFileError, NotFoundError, StorageFullError
from nodepool.heavy import jobs
from nodepool.heavy.worker import OutOfBoundsError
from nodepool.stores.files.file_store import FileStore
from nodepool.stores.sql import removal
from nodepool.stores.sql.removal import ExpiredFiles
from nodepool.workflows import stored_files

log = logging.getLogger(__name__)
_AT_ONCE = 50
# Its end may be told once more by an agent that heard no answer.
_DELETED_SECONDS = 3600.0
# The agent adds a notice after the output that it cut.
_NOTICE_BYTES = 4096
_SMALL_RESULT_BYTES = 256 << 10
_CREDIT_AT_ONCE = 500


class ExpiredTasks:
    """For one thread. Every step raises UnavailableError, and says how many it did."""

    def __init__(self, dispatcher: Dispatcher, files: FileStore) -> None:
        self._dispatcher = dispatcher
        self._files = files
        self._retention = dispatcher.settings.retention

    def steps(self) -> tuple[Callable[[], int], ...]:
        return (
            self.remove_files,
            self.remove_logs,
            self.remove_rows,
            self.remove_credit_changes,
        )

    def remove_files(self) -> int:
        """Results and packages."""
        database, now = self._dispatcher.database, self._dispatcher.clock()
        before = self._retention.results_before(now)
        if before is None:
            return 0
        found = database.read(lambda c: removal.with_files(c, before, _AT_ONCE))
        if not found:
            return 0
        kept = {task.task_id: self._keep_output(task, now) for task in found}
        gone = database.write(lambda c: removal.remove_files(c, kept, now))
        if gone:
            stored_files.settle(database, self._files, gone)
            log.info("results of %d tasks that ended long ago are removed", len(gone))
        return len(gone)

    def _keep_output(self, task: ExpiredFiles, now: float) -> int:
        """How many bytes of its output are kept apart, which is on the disk then."""
        until = self._retention.outputs_before(now)
        if not (task.is_users and task.attempt_id and self._retention.keeps_output_longer):
            return 0
        if until is not None and task.finished_at < until:
            return 0
        try:
            if output := self._output(task):
                self._files.put_log(task.attempt_id, output)
        except StorageFullError:
            # Keeping it must not keep the disk full.
            log.warning("the output of %s goes with its result: the disk is full", task.task_id)
            return 0
        return len(output) or self._log_size(task.attempt_id)

    def _log_size(self, attempt_id: str) -> int:
        """Output that no result has is kept apart already."""
        try:
            return len(self._files.log_bytes(attempt_id))
        except (NotFoundError, CorruptFileError):
            return 0

    def _output(self, task: ExpiredFiles) -> bytes:
        most = self._dispatcher.settings.max_output_bytes + _NOTICE_BYTES
        if not task.has_result:
            return b""
        try:
            result = self._files.sealed_result(task.attempt_id)
            # Made on strangers' machines: what is large is opened where that may cost much.
            if task.result_bytes <= _SMALL_RESULT_BYTES:
                return jobs.output(result, most)
            return self._dispatcher.deferred_ends.output("expired results", result, most)
        except (NotFoundError, CorruptFileError, OutOfBoundsError) as error:
            log.info("there is no output in the result of %s: %s", task.task_id, error)
            return b""

    def remove_logs(self) -> int:
        """Output that was kept apart."""
        database, now = self._dispatcher.database, self._dispatcher.clock()
        before = self._retention.outputs_before(now)
        if before is None:
            return 0
        due = database.read(lambda c: removal.with_logs(c, before, _AT_ONCE))
        if due:
            database.write(lambda c: removal.remove_logs(c, due))
            stored_files.settle(database, self._files, due)
        return len(due)

    def remove_rows(self) -> int:
        """Tasks with their runs, attempts and probes, jobs with their last task; their money stays."""
        database, now = self._dispatcher.database, self._dispatcher.clock()
        before = self._retention.tasks_before(now)
        due = database.read(
            lambda c: removal.removable(
                c, before=before, deleted_before=now - _DELETED_SECONDS, limit=_AT_ONCE
            )
        )
        if not due:
            return 0
        gone = database.write(lambda c: removal.remove_rows(c, due, now))
        if gone:
            log.info("%d tasks that ended long ago are removed; their payments stay", gone)
        return gone

    def remove_credit_changes(self) -> int:
        """Why scores moved, as long ago as tasks are kept."""
        before = self._retention.tasks_before(self._dispatcher.clock())
        if before is None:
            return 0
        database = self._dispatcher.database
        oldest = database.read(removal.oldest_credit_change)
        if oldest is None or oldest >= before:
            return 0
        return database.write(lambda c: removal.remove_credit_changes(c, before, _CREDIT_AT_ONCE))
