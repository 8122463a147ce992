"""The log files of the parts: bounded in size, and their last lines for the one who watches.

A part appends to its file itself, so it goes on writing when the supervisor is gone. A file over
its bound has its last bytes copied aside and is cut to nothing: what is written between the two is lost.
"""

from __future__ import annotations

import os
from pathlib import Path

MAX_BYTES = 5 << 20
KEPT_FILES = 2
_TAIL_BYTES = 16 << 10


def open_log(path: Path) -> int:
    """A descriptor that appends, which is what makes cutting the file safe."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def bound(path: Path, *, max_bytes: int = MAX_BYTES, kept_files: int = KEPT_FILES) -> bool:
    """Moves the content to `.1` when it is too large, the older ones one on; whether it did."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return False
    if size <= max_bytes:
        return False
    for number in range(kept_files, 1, -1):
        older = path.with_name(f"{path.name}.{number - 1}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number}"))
    first = path.with_name(f"{path.name}.1")
    # Not to the file's end: a part that floods would be followed for ever.
    with path.open("rb") as source:
        source.seek(size - max_bytes)
        kept = source.read(max_bytes)
    first.touch(mode=0o600)
    first.write_bytes(kept)
    os.truncate(path, 0)
    return True


def last_lines(path: Path, count: int, *, since: int = 0) -> list[str]:
    """The last lines that were written after byte `since`."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            # Cut in between: all of it is new.
            start = since if since <= size else 0
            file.seek(max(start, size - _TAIL_BYTES))
            text = file.read(_TAIL_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return []
    return [line for line in text.splitlines() if line.strip()][-count:]
