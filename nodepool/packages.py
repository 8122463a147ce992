"""Which ZIP files are accepted as a package, and what in them is run.

The gateway asks before it stores, the client before it sends, and the agent again before it
unpacks. Nothing here writes; entries are only read to the extent that the caller asks for.
"""

from __future__ import annotations

import lzma
import posixpath
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import IO

from nodepool.errors import InvalidPackageError

ENTRY_SCRIPTS = ("main.py", "task_script.py", "run.py", "app.py", "script.py")
SHELL_ENTRY = "run.sh"
REQUIREMENTS = "requirements.txt"
# Small files of zeros are honest; the ratio is only asked of what unpacks to more than this.
RATIO_FREE_BYTES = 1 << 20
_ENCRYPTED_FLAG = 0x1
_MAX_NAME_BYTES = 255
_MAX_PATH_BYTES = 1024


@dataclass(frozen=True, slots=True)
class PackageLimits:
    max_unpacked_bytes: int = 512 << 20
    max_entries: int = 10_000
    max_ratio: int = 200


def check_package(file: IO[bytes], limits: PackageLimits, *, read_all: bool = False) -> list[zipfile.ZipInfo]:
    """The entries of an acceptable package, in order.

    Raises InvalidPackageError naming the first thing that is wrong. With `read_all` every entry
    is also decompressed, so that a wrong CRC and a size that lies are found.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check_entries(entries, limits)
            if read_all:
                for entry in entries:
                    _check_content(archive, entry)
            entry_script([entry.filename for entry in entries])
            return entries
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        struct.error,
        EOFError,
        OSError,
        OverflowError,
        ValueError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise InvalidPackageError(f"the package is not a readable ZIP file: {error}") from error


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
    if len(entries) > limits.max_entries:
        raise InvalidPackageError(
            f"the package has {len(entries)} entries, more than the {limits.max_entries} allowed"
        )
    seen: set[str] = set()
    files: set[str] = set()
    unpacked = packed = 0
    for entry in entries:
        name = _checked_name(entry)
        key = name.casefold()
        if key in seen:
            raise InvalidPackageError(f"the package has two entries called {name[:100]!r}")
        seen.add(key)
        if not entry.is_dir():
            files.add(key)
        unpacked += entry.file_size
        packed += entry.compress_size
    _check_sizes(unpacked, packed, limits)
    for key in seen:
        parent = posixpath.dirname(key)
        while parent:
            if parent in files:
                raise InvalidPackageError(f"the package uses {parent[:100]!r} as a file and as a folder")
            parent = posixpath.dirname(parent)


def _check_sizes(unpacked: int, packed: int, limits: PackageLimits) -> None:
    if unpacked > limits.max_unpacked_bytes:
        raise InvalidPackageError(
            f"the package unpacks to {unpacked} bytes, more than the {limits.max_unpacked_bytes} allowed"
        )
    if unpacked > RATIO_FREE_BYTES and unpacked > packed * limits.max_ratio:
        raise InvalidPackageError(
            f"the package unpacks to more than {limits.max_ratio} times its size; that looks like a ZIP bomb"
        )


def _checked_name(entry: zipfile.ZipInfo) -> str:
    name = entry.filename
    shown = repr(name[:100])
    # zipfile cuts the name at a NUL; orig_filename still has it.
    if "\0" in entry.orig_filename or "\\" in entry.orig_filename or not name.isprintable():
        raise InvalidPackageError(f"the entry name {shown} has a character that is not allowed")
    if name.startswith("/") or (len(name) > 1 and name[1] == ":"):
        raise InvalidPackageError(f"the entry {shown} has an absolute path")
    parts = name.rstrip("/").split("/")
    if any(part in {"", ".", ".."} for part in parts):
        raise InvalidPackageError(f"the entry {shown} leaves the package's folder or has an empty part")
    if len(name.encode()) > _MAX_PATH_BYTES or any(len(p.encode()) > _MAX_NAME_BYTES for p in parts):
        raise InvalidPackageError(f"the entry name {shown} is too long")
    if entry.flag_bits & _ENCRYPTED_FLAG:
        raise InvalidPackageError(f"the entry {shown} is encrypted; upload the package without a password")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        raise InvalidPackageError(
            f"the entry {shown} is a link or a device; only files and folders are allowed"
        )
    return name.rstrip("/")


def _check_content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    size = 0
    with archive.open(entry) as source:
        while chunk := source.read(1 << 16):
            size += len(chunk)
            if size > entry.file_size:
                raise InvalidPackageError(f"the entry {entry.filename[:100]!r} is larger than it says")
    if size != entry.file_size:
        raise InvalidPackageError(f"the entry {entry.filename[:100]!r} is cut short")
