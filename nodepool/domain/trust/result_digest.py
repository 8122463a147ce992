"""What of a result is compared, and its digest: equal for runs that did the same, whoever ran them. Pure.

Results are made on strangers' machines. Nothing is kept in memory but a listing of bounded size, and
what cannot be read within bounds has no digest.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.globs import MAX_PATTERN_CHARACTERS, Globs, count_classes
from nodepool.domain.safe_text import is_plain
from nodepool.domain.tasks.pool_result import RESULT_BOUNDS
from nodepool.domain.tasks.states import Outcome
from nodepool.domain.tasks.zip_listing import UNREADABLE, ListingError, PathTree, check_places, read_listing

MAX_PATTERNS = 32
MAX_CLASSES = 64
# What the agent adds to the working directory; the output is compared where a task makes nothing else.
OUTPUT_FILE = "task_logs.txt"
_ADDED = frozenset({"execution_log.txt", OUTPUT_FILE, "task_stopped.txt"})
# Python keeps times in there.
_CACHE = "/__pycache__/"
_CHUNK_BYTES = 1 << 18


class IncomparableError(Exception):
    """The ZIP cannot be read within bounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How a run ended: part of what is compared, or every node could say that every task fails."""

    outcome: Outcome
    exit_code: int | None  # nodes without an agent tell none

    @property
    def word(self) -> str:
        code = int(self.outcome is not Outcome.SUCCEEDED) if self.exit_code is None else self.exit_code
        return f"{self.outcome} {code}"


def check_patterns(patterns: Sequence[str]) -> tuple[str, ...]:
    """Paths and patterns of files, each one line. Raises InvalidInputError."""
    if len(patterns) > MAX_PATTERNS:
        raise InvalidInputError(f"compare_outputs takes at most {MAX_PATTERNS} patterns, not {len(patterns)}")
    for pattern in patterns:
        if not 0 < len(pattern) <= MAX_PATTERN_CHARACTERS or not is_plain(pattern):
            raise InvalidInputError(
                f"each of compare_outputs must have 1 to {MAX_PATTERN_CHARACTERS} printable characters"
            )
        if pattern.startswith("/") or ".." in pattern.split("/"):
            raise InvalidInputError(
                f"compare_outputs names files of the result, such as out/*.csv, not {pattern[:60]!r}"
            )
    if sum(map(count_classes, patterns)) > MAX_CLASSES:
        raise InvalidInputError(f"compare_outputs takes at most {MAX_CLASSES} of [...] in all its patterns")
    return tuple(patterns)


def digest(
    ran: Ran, result: IO[bytes] | None, package: IO[bytes] | None, patterns: Sequence[str], max_bytes: int
) -> str:
    """SHA-256 over how it ended and the compared files, by name, without times or order.

    `max_bytes` is the most that may be unpacked. Raises IncomparableError.
    """
    files = _files(result, patterns, max_bytes) if result is not None else {}
    if not patterns:
        files = {name: content for name, content in files.items() if _CACHE not in f"/{name}"}
        added = {name: files.pop(name) for name in _ADDED & files.keys()}
        # A task that only says something: its words are what it made.
        if OUTPUT_FILE in added and package is not None and files == _files(package, (), max_bytes):
            files[OUTPUT_FILE] = added[OUTPUT_FILE]
    whole = hashlib.sha256(f"{ran.word}\n".encode())
    for name in sorted(files):
        encoded = name.encode()
        whole.update(f"{len(encoded)} ".encode() + encoded + files[name])
    return whole.hexdigest()


def unlike_any_other(run_id: str) -> str:
    """The digest of a run whose result cannot be read: it agrees with nobody, not even its like."""
    return hashlib.sha256(f"unreadable {run_id}".encode()).hexdigest()


def _files(archive: IO[bytes], patterns: Sequence[str], max_bytes: int) -> dict[str, bytes]:
    """The SHA-256 of each file that the patterns name; of all where there are none."""
    wanted = Globs(patterns) if patterns else None
    left = max_bytes
    found: dict[str, bytes] = {}
    try:
        listing = read_listing(archive, RESULT_BOUNDS)
        tree = PathTree(RESULT_BOUNDS, folds=False)
        for entry in listing.entries:
            tree.add(entry.filename.rstrip("/"), is_folder=entry.is_dir())
        check_places(archive, listing)
        with zipfile.ZipFile(archive) as opened:
            for entry in listing.entries:
                if entry.is_dir() or (wanted is not None and not wanted.matches(entry.filename)):
                    continue
                content = hashlib.sha256()
                for chunk in _chunks(opened, entry):
                    left -= len(chunk)
                    if left < 0:
                        raise IncomparableError(f"it unpacks to more than {max_bytes} bytes")
                    content.update(chunk)
                found[entry.filename] = content.digest()
    except ListingError as error:
        raise IncomparableError(f"it {error}") from error
    except UNREADABLE as error:
        raise IncomparableError(f"it is not a readable ZIP file: {str(error)[:200]}") from error
    return found


def _chunks(opened: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    with opened.open(entry) as source:
        while chunk := source.read(_CHUNK_BYTES):
            yield chunk
