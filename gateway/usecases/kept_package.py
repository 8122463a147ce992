"""A package that is in the pool already, where a new task is to have it, too."""

from __future__ import annotations

from dataclasses import dataclass

from nodepool.domain.errors import StateConflictError
from nodepool.stores.files.file_store import FileStore


@dataclass(frozen=True, slots=True)
class KeptPackage:
    """As the task has it that is done again."""

    size: int
    sha256: str

    def store(self, files: FileStore) -> None:
        """It is there, and stays: whoever calls holds it. Raises StateConflictError where it is removed."""
        if not files.has_package(self.sha256):
            raise StateConflictError(
                "its package is not kept here any more (packages go with results, some days after the end, "
                "and at once where a single task was stopped before it ran): submit it anew"
            )
