"""Results of other steps that a run is given: fetched one by one, and unpacked beside its working directory.

What other nodes have made is as hostile as any package, and is unpacked in the same way: in a process of its
own, checked, bounded. Knows neither the gateway nor a runner: fetching is passed in.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from nodepool.domain.errors import InvalidPackageError
from nodepool.domain.tasks.flows import INPUTS

_PATH = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}(?:/\d{1,9})?")
# The task's user goes through them and reads them; nobody but the agent writes.
_FOLDER_MODE = 0o755


@dataclass(frozen=True, slots=True)
class RunInput:
    """`fetch` gives the chunks of a ZIP, at most `size_bytes` of them; it may be asked again."""

    path: str  # below the folder of inputs
    size_bytes: int
    fetch: Callable[[Callable[[Iterator[bytes]], None]], None]


def lay_out(
    inputs: Sequence[RunInput],
    folder: Path,
    unpack: Callable[[int, Path, int], bool],
    *,
    max_bytes: int,
) -> None:
    """All of them below the new `folder`. `unpack` takes a descriptor of a ZIP, an empty folder and how many
    bytes may come of it, and says whether it was not stopped.

    Raises InvalidPackageError for what cannot be unpacked or takes more than `max_bytes` in all.
    """
    folder.mkdir(mode=_FOLDER_MODE)
    left = max_bytes
    for one in inputs:
        if not _PATH.fullmatch(one.path):
            raise InvalidPackageError(f"the pool names an input {one.path[:80]!r}, which is no place for one")
        place = folder / one.path
        place.parent.mkdir(mode=_FOLDER_MODE, exist_ok=True)
        place.mkdir(mode=_FOLDER_MODE)
        with TemporaryFile(dir=folder.parent) as file:
            _fetch(one, file.fileno())
            if not unpack(file.fileno(), place, left):
                return
        left -= _size_of(place)
        if left <= 0:
            raise InvalidPackageError(
                f"the results that the task is given take more than {max_bytes} bytes when they are unpacked"
            )


def _fetch(one: RunInput, descriptor: int) -> None:
    def keep(chunks: Iterator[bytes]) -> None:
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        size = 0
        for chunk in chunks:
            size += len(chunk)
            if size > one.size_bytes:
                raise InvalidPackageError(f"more came of the input {one.path} than was announced")
            view = memoryview(chunk)
            while view:
                view = view[os.write(descriptor, view) :]

    one.fetch(keep)
    os.lseek(descriptor, 0, os.SEEK_SET)


def _size_of(folder: Path) -> int:
    return sum((Path(root) / name).lstat().st_size for root, _, names in os.walk(folder) for name in names)


def check_room(work_dir: Path) -> None:
    """Where the results are seen there must be nothing of the package. Raises InvalidPackageError."""
    if os.path.lexists(work_dir / INPUTS):
        raise InvalidPackageError(
            f"the package has something called {INPUTS!r} at its root, where the results of other steps "
            "belong: rename it"
        )


def take_away(work_dir: Path) -> None:
    """The empty folder or the link by which the run saw them. What the run has put there instead stays."""
    place = work_dir / INPUTS
    with suppress(OSError):
        place.unlink() if place.is_symlink() else place.rmdir()
