"""Which ZIP files are accepted as a package, and what in them is run.

The gateway asks before it stores, the client before it sends, and the agent again before it
unpacks. Nothing here writes; entries are only read to the extent that the caller asks for.
"""

from __future__ import annotations

import stat
import zipfile
from dataclasses import dataclass
from typing import IO

from nodepool.domain.errors import InvalidPackageError
from nodepool.domain.safe_text import is_plain
from nodepool.domain.tasks.zip_listing import (
    MAX_NAME_BYTES,
    MAX_PATH_BYTES,
    UNREADABLE,
    ListingBounds,
    ListingError,
    PathTree,
    check_places,
    read_listing,
)

ENTRY_SCRIPTS = ("main.py", "task_script.py", "run.py", "app.py", "script.py")
SHELL_ENTRY = "run.sh"
REQUIREMENTS = "requirements.txt"
# Small files of zeros are honest; the ratio is only asked of what unpacks to more than this.
RATIO_FREE_BYTES = 1 << 20
# Folders in each other; no package that people made by hand or by a tool comes near it.
DEFAULT_MAX_DEPTH = 32
_BLOCK_BYTES = 4096


@dataclass(frozen=True, slots=True)
class PackageLimits:
    max_unpacked_bytes: int = 512 << 20
    max_entries: int = 10_000
    max_ratio: int = 200
    max_depth: int = DEFAULT_MAX_DEPTH

    @property
    def bounds(self) -> ListingBounds:
        return ListingBounds(self.max_entries, self.max_depth)


def check_package(
    file: IO[bytes], limits: PackageLimits, *, read_all: bool = False, runs: bool = True
) -> list[zipfile.ZipInfo]:
    """The entries of an acceptable package, in order. `runs`: there must be something to run.

    Raises InvalidPackageError naming the first thing that is wrong. With `read_all` every entry
    is also decompressed, so that a wrong CRC and a size that lies are found.
    """
    try:
        listing = read_listing(file, limits.bounds)
        entries = listing.entries
        _check_entries(entries, limits)
        check_places(file, listing)
        if read_all:
            with zipfile.ZipFile(file) as archive:
                for entry in entries:
                    _check_content(archive, entry)
    except ListingError as error:
        raise InvalidPackageError(f"the package {error}") from error
    except UNREADABLE as error:
        raise InvalidPackageError(f"the package is not a readable ZIP file: {error}") from error
    if runs:
        entry_script([entry.filename for entry in entries])
    return entries


def check_announced(packed: int, unpacked: int, entries: int, limits: PackageLimits) -> None:
    """What can be said of a package that is not here, in bytes and files. 0 says nothing.

    Raises InvalidPackageError.
    """
    if entries > limits.max_entries:
        raise InvalidPackageError(
            f"the package has {entries} files and folders, more than the {limits.max_entries} allowed"
        )
    _check_sizes(unpacked, packed or unpacked, limits)


def disk_bytes(entries: list[zipfile.ZipInfo]) -> int:
    """What the entries take on a disk, generously: whole blocks, and one for every file and folder."""
    folders: set[str] = set()
    total = 0
    for entry in entries:
        path = entry.filename.rstrip("/")
        total += (1 + -(-entry.file_size // _BLOCK_BYTES)) * _BLOCK_BYTES
        while (path := path.rpartition("/")[0]) and path not in folders:
            folders.add(path)
    return total + len(folders) * _BLOCK_BYTES


def entry_script(names: list[str]) -> str:
    """The file that is run: run.sh, else the first known name, else the first *.py at the root."""
    root = [name for name in names if "/" not in name]
    for candidate in (SHELL_ENTRY, *ENTRY_SCRIPTS):
        if candidate in root:
            return candidate
    scripts = sorted(name for name in root if name.endswith(".py"))
    if scripts:
        return scripts[0]
    raise InvalidPackageError(
        "the package has nothing to run: put run.sh, main.py or another *.py at the root of the ZIP"
    )


def _check_entries(entries: list[zipfile.ZipInfo], limits: PackageLimits) -> None:
    if not entries:
        raise InvalidPackageError("the package is an empty ZIP file")
    tree = PathTree(limits.bounds)
    unpacked = packed = 0
    for entry in entries:
        tree.add(_checked_name(entry), is_folder=entry.is_dir())
        unpacked += entry.file_size
        packed += entry.compress_size
    _check_sizes(unpacked, packed, limits)


def _check_sizes(unpacked: int, packed: int, limits: PackageLimits) -> None:
    if unpacked > limits.max_unpacked_bytes:
        raise InvalidPackageError(
            f"the package unpacks to {unpacked} bytes, more than the {limits.max_unpacked_bytes} allowed"
        )
    if unpacked > RATIO_FREE_BYTES and unpacked > packed * limits.max_ratio:
        raise InvalidPackageError(
            f"the package unpacks to more than {limits.max_ratio} times its size; that looks like a ZIP bomb"
        )


def check_path(path: str) -> None:
    """A path of a file or folder in a package. Raises InvalidPackageError."""
    shown = repr(path[:100])
    if "\\" in path or not is_plain(path):
        raise InvalidPackageError(f"the entry name {shown} has a character that is not allowed")
    if path.startswith("/") or path[1:2] == ":":
        raise InvalidPackageError(f"the entry {shown} has an absolute path")
    parts = path.split("/")
    if any(part in {"", ".", ".."} for part in parts):
        raise InvalidPackageError(f"the entry {shown} leaves the package's folder or has an empty part")
    if len(path.encode()) > MAX_PATH_BYTES or any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        raise InvalidPackageError(f"the entry name {shown} is too long")


def _checked_name(entry: zipfile.ZipInfo) -> str:
    name = entry.filename
    path = name.removesuffix("/")
    # zipfile cuts the name at a NUL; orig_filename still has it.
    if "\0" in entry.orig_filename or "\\" in entry.orig_filename:
        raise InvalidPackageError(f"the entry name {name[:100]!r} has a character that is not allowed")
    check_path(path)
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        raise InvalidPackageError(
            f"the entry {name[:100]!r} is a link or a device; only files and folders are allowed"
        )
    return path


def _check_content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    size = 0
    with archive.open(entry) as source:
        while chunk := source.read(1 << 16):
            size += len(chunk)
            if size > entry.file_size:
                raise InvalidPackageError(f"the entry {entry.filename[:100]!r} is larger than it says")
    if size != entry.file_size:
        raise InvalidPackageError(f"the entry {entry.filename[:100]!r} is cut short")
