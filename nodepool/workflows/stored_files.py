"""What tasks that have ended need not keep: counted in SQL, and removed from the file store.

First counted, then removed, then marked as done: what of it fails is done again by whoever asks next.
"""

from __future__ import annotations

from collections.abc import Sequence

from nodepool.stores.files.file_store import FileStore
from nodepool.stores.sql import storage_accounting
from nodepool.stores.sql.database import Database


def settle(database: Database, files: FileStore, task_ids: Sequence[str]) -> int:
    """Count what these tasks keep now that they have ended, and remove what they need not. How many were due.

    Asked again it changes nothing; none while a backup copies files. Raises UnavailableError; what was not
    done stays due.
    """
    try:
        with files.removing():
            return _settle(database, files, task_ids)
    except BlockingIOError:
        return 0


def _settle(database: Database, files: FileStore, task_ids: Sequence[str]) -> int:
    ended = database.write(lambda connection: storage_accounting.settle(connection, task_ids))
    for task in ended:
        if task.result:
            files.delete_result(task.result, with_log=False)
        for attempt_id in task.logs:
            files.delete_log(attempt_id)
    released = sorted({task.released for task in ended} - {""})
    left = {sha256 for sha256 in released if not discard(database, files, sha256)}
    if done := [task.task_id for task in ended if task.released not in left]:
        database.write(lambda connection: storage_accounting.settled(connection, done))
    return len(ended)


def discard(database: Database, files: FileStore, sha256: str) -> bool:
    """Remove a package that no task needs; False where somebody is about to make one of it just now."""
    return files.delete_unneeded(
        sha256, lambda: not database.read(lambda connection: storage_accounting.is_kept(connection, sha256))
    )
