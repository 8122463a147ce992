"""What tasks that have ended keep: counted for their owners, and removed where it need not stay."""

from __future__ import annotations

import logging

from dispatcher.context import Dispatcher, open_files
from nodepool.stores.files.file_store import FileStore
from nodepool.stores.sql import storage_accounting
from nodepool.workflows import stored_files

log = logging.getLogger(__name__)
# In one pass; the next one goes on.
_AT_ONCE = 200


class StoredFiles:
    """For one thread."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._files: FileStore | None = None

    def settle(self) -> None:
        """A page of them. Raises UnavailableError."""
        database = self._dispatcher.database
        due = database.read(lambda connection: storage_accounting.due(connection, _AT_ONCE))
        if not due:
            return
        if self._files is None:
            self._files = open_files(self._dispatcher.settings)
        stored_files.settle(database, self._files, due)
