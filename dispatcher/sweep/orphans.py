"""Files in the store that no row speaks of: found folder by folder, slowly, and removed.

A crash between a file and its row leaves one. What was written lately is left alone: its row may be on its
way. Nothing is removed from a store that another database has used: to this one, all would be orphans.
"""

from __future__ import annotations

import logging

from dispatcher.context import Dispatcher
from nodepool.stores.files.file_store import FOLDERS, FileStore, StoredKind
from nodepool.stores.sql import removal
from nodepool.stores.sql.ledger import statements as ledger_store
from nodepool.workflows import stored_files

log = logging.getLogger(__name__)
# Longer than any call that writes a file and then tells of it.
WRITTEN_LATELY_SECONDS = 2 * 3600.0
_AT_ONCE = 200
_KINDS: tuple[StoredKind, ...] = ("results", "logs", "packages")


class OrphanScan:
    """For one thread. Raises UnavailableError."""

    def __init__(self, dispatcher: Dispatcher, files: FileStore) -> None:
        self._dispatcher = dispatcher
        self._files = files
        self._number = 0

    def step(self) -> int:
        """One folder of each kind; FOLDERS steps see all. How many files were removed."""
        if not self._is_ours():
            return 0
        number, self._number = self._number, (self._number + 1) % FOLDERS
        before = self._dispatcher.clock() - WRITTEN_LATELY_SECONDS
        removed = 0
        for kind in _KINDS:
            names = self._files.listed(kind, number, before)
            for start in range(0, len(names), _AT_ONCE):
                removed += self._look(kind, names[start : start + _AT_ONCE])
        if removed:
            log.warning("%d files that belonged to nothing are removed", removed)
        return removed

    def _is_ours(self) -> bool:
        pool = self._dispatcher.database.read(ledger_store.first_hash)
        if pool and self._files.belongs_to(pool):
            return True
        if pool and self._number == 0:
            log.error(
                "the files in TASK_STORAGE_PATH belong to another database than this one: none of them is "
                "taken for left over. Where this database is right, remove the file pool.id there"
            )
        self._number = (self._number + 1) % FOLDERS
        return False

    def _look(self, kind: StoredKind, names: list[str]) -> int:
        database = self._dispatcher.database
        if kind == "packages":
            return sum(self._discard(sha256) for sha256 in names)
        needed = removal.needed_results if kind == "results" else removal.needed_logs
        keep = database.read(lambda c: needed(c, names))
        orphans = [name for name in names if name not in keep]
        for name in orphans:
            if kind == "logs":
                self._files.delete_log(name)
            else:  # its log may be kept longer
                self._files.delete_result(name, with_log=False)
        return len(orphans)

    def _discard(self, sha256: str) -> int:
        stored_files.discard(self._dispatcher.database, self._files, sha256)
        return int(not self._files.has_package(sha256))
