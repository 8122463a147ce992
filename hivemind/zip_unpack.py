"""A result ZIP becomes a directory. It was made on someone else's machine, so nothing in it is trusted.

Links, devices and odd names are left out with a warning; an entry that would leave the directory
makes the whole result refused, for no honest node writes one.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hivemind.errors import BadResultError, RefusedError
from nodepool.domain.safe_text import is_plain
from nodepool.domain.tasks.pool_result import RESULT_BOUNDS
from nodepool.domain.tasks.zip_listing import (
    MAX_NAME_BYTES,
    MAX_PATH_BYTES,
    UNREADABLE,
    ListingError,
    PathTree,
    check_places,
    read_listing,
)

MAX_UNPACKED_BYTES = 4 << 30
_MAX_WARNINGS = 20
_CHUNK_BYTES = 1 << 20
_WINDOWS_DEVICES = frozenset(
    {"CON", "PRN", "AUX", "NUL", "CLOCK$", "CONIN$", "CONOUT$"}
    | {f"{port}{number}" for port in ("COM", "LPT") for number in "0123456789\u00b9\u00b2\u00b3"}
)


@dataclass(frozen=True, slots=True)
class Unpacked:
    files: tuple[str, ...]
    warnings: tuple[str, ...]


def check_destination(directory: Path, *, overwrite: bool) -> None:
    """Ask before the work, not after it: can a result be unpacked here? Raises RefusedError."""
    if directory.exists() and not directory.is_dir():
        raise RefusedError(f"{directory} is a file, not a directory")
    if not overwrite and directory.is_dir() and any(directory.iterdir()):
        raise RefusedError(
            f"the directory {directory} is not empty", hint="choose another one, or overwrite with --force"
        )


def unpack(
    archive_path: Path,
    directory: Path,
    *,
    overwrite: bool = False,
    max_unpacked_bytes: int = MAX_UNPACKED_BYTES,
) -> Unpacked:
    """Unpack into `directory`; nothing appears there before all of the ZIP was found good.

    With `overwrite`, a directory that has files already keeps those that the result does not name.
    Raises BadResultError for a ZIP that cannot be trusted, RefusedError for a full or unwritable disk.
    """
    check_destination(directory, overwrite=overwrite)
    with _disk_errors(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        fresh = directory.parent / f".{directory.name}.{secrets.token_hex(8)}"
        fresh.mkdir()
        try:
            unpacked = _extract(archive_path, fresh, max_unpacked_bytes)
            _move(fresh, directory)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return unpacked


@contextmanager
def _disk_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "free some space and run `hivemind result` again" if error.errno == errno.ENOSPC else ""
        raise RefusedError(
            f"the result cannot be written to {directory}: {error.strerror or error}", hint=hint
        ) from error


def _extract(archive_path: Path, root: Path, max_unpacked_bytes: int) -> Unpacked:
    warnings: list[str] = []
    try:
        with archive_path.open("rb") as file:
            listing = read_listing(file, RESULT_BOUNDS)
            kept = _kept(listing.entries, warnings)
            _check_size(kept, root, max_unpacked_bytes)
            check_places(file, listing)
            with zipfile.ZipFile(file) as archive:
                for entry in kept:
                    if entry.is_dir():
                        (root / entry.filename).mkdir(parents=True, exist_ok=True)
                    else:
                        _write(archive, entry, root)
    except ListingError as error:
        raise BadResultError(f"the result {error}") from error
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # this machine's disk
        raise BadResultError(f"the result is not a readable ZIP file: {error}") from error
    if len(warnings) > _MAX_WARNINGS:
        warnings[_MAX_WARNINGS:] = [f"left out {len(warnings) - _MAX_WARNINGS} more"]
    files = sorted(entry.filename for entry in kept if not entry.is_dir())
    return Unpacked(tuple(files), tuple(warnings))


def _kept(entries: list[zipfile.ZipInfo], warnings: list[str]) -> list[zipfile.ZipInfo]:
    """What is unpacked; folders count that only paths name. Raises BadResultError or ListingError."""
    tree = PathTree(RESULT_BOUNDS, folds=False)
    kept = []
    for entry in entries:
        problem = _problem(entry)
        if problem:
            warnings.append(f"left out {entry.filename[:100]!r}: {problem}")
        else:
            tree.add(entry.filename.removesuffix("/"), is_folder=entry.is_dir())
            kept.append(entry)
    return kept


def _check_size(entries: list[zipfile.ZipInfo], root: Path, max_unpacked_bytes: int) -> None:
    """Before anything is written. What an entry says of its size is held to when it is read."""
    size = sum(entry.file_size for entry in entries)
    if size > max_unpacked_bytes:
        raise BadResultError(
            f"the result unpacks to {size} bytes, more than the {max_unpacked_bytes} allowed; "
            "that looks like a ZIP bomb",
            hint="if you expect that much, allow it with --max-gib, or keep the ZIP with --zip",
        )
    if size > shutil.disk_usage(root).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _problem(entry: zipfile.ZipInfo) -> str:
    """Why an entry is left out, or "". Raises BadResultError for one that is an attack."""
    name = entry.filename
    parts = name.removesuffix("/").split("/")
    if name.startswith("/") or ".." in parts or os.path.splitdrive(name)[0]:
        raise BadResultError(f"the result's entry {name[:100]!r} would leave its directory")
    if "\0" in entry.orig_filename or "\\" in name or not is_plain(name) or {"", "."} & set(parts):
        return "its name has characters that are not allowed"
    if len(name.encode()) > MAX_PATH_BYTES or any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        return "its path is too long"
    if len(parts) > RESULT_BOUNDS.max_depth:
        return "it is in too many folders"
    if os.name == "nt" and not all(map(fits_windows, parts)):
        return "Windows has another meaning for its name"
    kind = stat.S_IFMT(entry.external_attr >> 16)
    return "" if kind in {0, stat.S_IFREG, stat.S_IFDIR} else "it is a link or a device"


def fits_windows(name: str) -> bool:
    """Not a device, no stream of another file, and nothing that Windows would cut off."""
    stem = name.split(".", maxsplit=1)[0].rstrip(" ").upper()
    return stem not in _WINDOWS_DEVICES and not set(name) & set('<>:"|?*') and name[-1:] not in {".", " "}


def _write(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, root: Path) -> None:
    path = root / entry.filename
    mode = 0o777 if (entry.external_attr >> 16) & 0o111 else 0o666
    # Exclusive: the directory is fresh, so whatever is there came from this very ZIP.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    room = entry.file_size
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, flags, mode)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise BadResultError(f"the result has {entry.filename[:100]!r} twice") from None
    with os.fdopen(descriptor, "wb") as sink, archive.open(entry) as source:
        while chunk := source.read(_CHUNK_BYTES):
            room -= len(chunk)
            if room < 0:
                raise BadResultError(f"the entry {entry.filename[:100]!r} is larger than it says")
            sink.write(chunk)


def _move(fresh: Path, directory: Path) -> None:
    if not directory.exists():
        fresh.rename(directory)
        return
    moves = [(source, directory / source.relative_to(fresh)) for source in sorted(fresh.rglob("*"))]
    for source, target in moves:
        _check_target(source, target)
    for source, target in moves:
        if source.is_dir():
            target.mkdir(exist_ok=True)
        else:
            source.replace(target)


def _check_target(source: Path, target: Path) -> None:
    """A result is never written through a link. Parents are asked before their children."""
    if source.is_dir():
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise RefusedError(f"{target} is a link or a file, and the result has a folder there")
    elif target.is_dir() and not target.is_symlink():
        raise RefusedError(f"{target} is a directory, and the result has a file there")
