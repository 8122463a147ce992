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
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from client.errors import BadResultError, RefusedError

MAX_UNPACKED_BYTES = 8 << 30
MAX_ENTRIES = 200_000
_MAX_WARNINGS = 20
_CHUNK_BYTES = 1 << 20
_ENCRYPTED_FLAG = 0x1
# As in packages. Folders nested deeper than this allows could not even be removed again.
_MAX_PATH_BYTES = 1024


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
    files: list[str] = []
    warnings: list[str] = []
    room = max_unpacked_bytes
    try:
        with zipfile.ZipFile(archive_path) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_ENTRIES:
                raise BadResultError(f"the result has {len(entries)} entries, more than {MAX_ENTRIES}")
            for entry in entries:
                problem = _problem(entry)
                if problem:
                    warnings.append(f"left out {entry.filename[:100]!r}: {problem}")
                elif entry.is_dir():
                    (root / entry.filename).mkdir(parents=True, exist_ok=True)
                else:
                    room = _write(archive, entry, root, room)
                    files.append(entry.filename)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise BadResultError(f"the result is not a readable ZIP file: {error}") from error
    if len(warnings) > _MAX_WARNINGS:
        warnings[_MAX_WARNINGS:] = [f"left out {len(warnings) - _MAX_WARNINGS} more"]
    return Unpacked(tuple(sorted(files)), tuple(warnings))


def _problem(entry: zipfile.ZipInfo) -> str:
    """Why an entry is left out, or "". Raises BadResultError for one that is an attack."""
    name = entry.filename
    parts = name.removesuffix("/").split("/")
    if name.startswith("/") or ".." in parts or os.path.splitdrive(name)[0]:
        raise BadResultError(f"the result's entry {name[:100]!r} would leave its directory")
    if "\0" in entry.orig_filename or "\\" in name or not name.isprintable() or {"", "."} & set(parts):
        return "its name has characters that are not allowed"
    if len(name.encode()) > _MAX_PATH_BYTES:
        return "its path is too long"
    if entry.flag_bits & _ENCRYPTED_FLAG:
        return "it is encrypted"
    kind = stat.S_IFMT(entry.external_attr >> 16)
    return "" if kind in {0, stat.S_IFREG, stat.S_IFDIR} else "it is a link or a device"


def _write(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, root: Path, room: int) -> int:
    """Write one file and answer how many more bytes may follow. What it says of its size is not believed."""
    path = root / entry.filename
    mode = 0o777 if (entry.external_attr >> 16) & 0o111 else 0o666
    # Exclusive: the directory is fresh, so whatever is there came from this very ZIP.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, flags, mode)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise BadResultError(f"the result has {entry.filename[:100]!r} twice") from None
    with os.fdopen(descriptor, "wb") as sink, archive.open(entry) as source:
        while chunk := source.read(_CHUNK_BYTES):
            room -= len(chunk)
            if room < 0:
                raise BadResultError(
                    "the result unpacks to more bytes than allowed; that looks like a ZIP bomb"
                )
            sink.write(chunk)
    return room


def _move(fresh: Path, directory: Path) -> None:
    if not directory.exists():
        fresh.rename(directory)
        return
    for source in sorted(fresh.rglob("*")):
        target = directory / source.relative_to(fresh)
        if source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            source.replace(target)
