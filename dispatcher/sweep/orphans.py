"""Files in the store that no row speaks of: found folder by folder, slowly, and removed. A look costs the
same however many files there are.

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
# Of each kind in one step.
_AT_ONCE = 200
_KINDS: tuple[StoredKind, ...] = ("results", "logs", "packages")


class OrphanScan:
    """For one thread. Raises UnavailableError."""

    def __init__(self, dispatcher: Dispatcher, files: FileStore) -> None:
        self._dispatcher = dispatcher
        self._files = files
        self._number = 0
        # In its folder, of each kind: what comes behind this name was not looked at yet.
        self._after: dict[StoredKind, str] = {}

    def step(self) -> int:
        """A page of a folder, and then the next folder. How many files were removed."""
        if not self._is_ours():
            return 0
        before = self._dispatcher.clock() - WRITTEN_LATELY_SECONDS
        removed, is_done = 0, True
        for kind in _KINDS:
            after = self._after.get(kind, "")
            names = [name for name in self._files.listed(kind, self._number, before) if name > after]
            if page := names[:_AT_ONCE]:
                removed += self._look(kind, page)
                self._after[kind] = page[-1]
            is_done = is_done and len(names) == len(page)
        if is_done:
            self._number, self._after = (self._number + 1) % FOLDERS, {}
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
