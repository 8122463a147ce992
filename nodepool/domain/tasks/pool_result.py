"""Result ZIPs of nodes without an agent: what is taken, and what the pool makes where there is none. Pure."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from typing import BinaryIO

from nodepool.domain.errors import InvalidInputError, TooLargeError
from nodepool.domain.tasks.zip_listing import UNREADABLE, ListingBounds, ListingError, check_end

# What an agent packs, and what is read of what anybody packed: files and folders, and folders in each other.
MAX_RESULT_ENTRIES = 100_000
MAX_RESULT_DEPTH = 100
# The agent's own files come on top.
RESULT_BOUNDS = ListingBounds(
    MAX_RESULT_ENTRIES + 100, MAX_RESULT_DEPTH, listing_bytes_per_entry=160, max_path_bytes=4096
)
_MAX_WORDS = 300


def check_result(file: BinaryIO, size_bytes: int, max_bytes: int) -> None:
    """Raises TooLargeError or InvalidInputError. What is in it is for whoever unpacks it to check."""
    if size_bytes > max_bytes:
        raise TooLargeError(f"the result has {size_bytes} bytes; at most {max_bytes} are taken")
    # Only the end is read: a listing of millions of entries must not cost the pool its memory.
    try:
        check_end(file, RESULT_BOUNDS)
    except ListingError as error:
        raise InvalidInputError(f"the result {error}") from error
    except UNREADABLE as error:
        raise InvalidInputError(f"the result is not a ZIP file: {error}") from error


def printable(words: str) -> str:
    """Words of strangers' machines, which are shown on people's terminals: bounded, and one line."""
    cut = words[: 4 * _MAX_WORDS]
    line = "".join(character if character.isprintable() else " " for character in cut)
    return " ".join(line.split())[:_MAX_WORDS]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolResult:
    """What the pool knows of a run whose node gave no files. Times are Unix seconds."""

    task_id: str
    attempt_id: str
    node_id: str
    status: str  # the protocol's word
    reason: str
    started_at: float
    finished_at: float
    output: bytes
    stopped: bool = True  # by its owner


def write_result(file: BinaryIO, result: PoolResult) -> None:
    """A result ZIP with what there is of a task that the pool ended: its output, and how it ended."""
    log = (
        f"task: {result.task_id}\nattempt: {result.attempt_id}\nnode: {result.node_id}\n"
        f"status: {result.status}\nreason: {result.reason}\n"
        f"started_at: {result.started_at:.3f}\nfinished_at: {result.finished_at:.3f}\n"
        "files: none, the node gave none\n"
    )
    files = [("execution_log.txt", log.encode()), ("task_logs.txt", result.output)]
    if result.stopped:
        files.append(("task_stopped.txt", f"{result.reason}\n".encode()))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
