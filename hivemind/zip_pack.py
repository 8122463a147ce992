"""A directory becomes a package: the same files always give the same bytes.

So an upload that is repeated after a lost answer is byte for byte the same upload, and the pool
stores a package that was sent before only once. Links are never followed: a package holds what is
in its directory and nothing else of this machine.
"""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO

from hivemind.errors import MissingError, RefusedError
from hivemind.ignore_rules import Selection
from hivemind.private_files import PRIVATE_FILES
from nodepool.domain.errors import InvalidPackageError
from nodepool.domain.tasks.package_rules import PackageLimits, check_package, check_path, entry_script

IGNORE_FILE = ".hivemindignore"
# A line `!pattern` in the ignore file takes one of these back.
DEFAULT_IGNORES = (
    ".git/",
    ".hg/",
    ".svn/",
    "__pycache__/",
    "*.pyc",
    ".venv/",
    "venv/",
    "node_modules/",
    ".mypy_cache/",
    ".pytest_cache/",
    ".ruff_cache/",
    ".DS_Store",
    IGNORE_FILE,
)
# The pool is the judge of its own limits; these only keep a mistyped path from zipping a whole disk.
LOCAL_LIMITS = PackageLimits(max_unpacked_bytes=8 << 30, max_entries=100_000, max_ratio=100_000)
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_IN_MEMORY_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 20
_MOST_NAMED = 6


@dataclass(frozen=True, slots=True)
class Package:
    """A checked package, open for reading. Close it when it is sent."""

    file: IO[bytes]
    size_bytes: int
    warnings: tuple[str, ...] = ()
    entry_script: str = ""  # what a node runs
    files: int = 0
    unpacked_bytes: int = 0

    def close(self) -> None:
        self.file.close()

    def chunks(self, chunk_bytes: int = _CHUNK_BYTES) -> Iterator[bytes]:
        """The bytes from the beginning, as often as asked."""
        self.file.seek(0)
        while chunk := self.file.read(chunk_bytes):
            yield chunk

    def read(self) -> bytes:
        self.file.seek(0)
        return self.file.read()

    def sha256(self) -> str:
        """In hex, of the bytes as they are now."""
        whole = hashlib.sha256()
        for chunk in self.chunks():
            whole.update(chunk)
        return whole.hexdigest()


@dataclass(slots=True)
class _Found:
    files: list[tuple[str, Path]] = field(default_factory=list)
    empty_folders: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    folders: int = 0
    unpacked_bytes: int = 0


def open_package(path: Path, limits: PackageLimits = LOCAL_LIMITS, *, include: Sequence[str] = ()) -> Package:
    """The package of a directory, of one Python file, or a ZIP as it is.

    `include`: patterns of what of a directory is packed although it would be left out.
    Raises MissingError when there is nothing at `path`, RefusedError when it cannot be a package.
    """
    is_zip = path.is_file() and path.suffix != ".py"
    if not path.exists():
        raise MissingError(f"there is no file or directory {path}")
    try:
        if path.is_dir():
            package = _pack(_collect(path, limits, include))
        elif path.suffix == ".py":
            package = _pack(_Found(files=[(path.name, path.resolve())]))
        elif is_zip:
            package = Package(path.open("rb"), path.stat().st_size)
        else:
            raise RefusedError(f"{path} is neither a directory nor a file")
    except OSError as error:
        raise RefusedError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        entries = check_package(package.file, limits)
    except InvalidPackageError as error:
        package.close()
        raise RefusedError(f"{path}: {error}") from error
    names = [entry.filename for entry in entries]
    return replace(
        package,
        warnings=(*package.warnings, *(_of_zip(names) if is_zip else ())),
        entry_script=entry_script(names),
        files=sum(not entry.is_dir() for entry in entries),
        unpacked_bytes=sum(entry.file_size for entry in entries),
    )


def _of_zip(names: Sequence[str]) -> tuple[str, ...]:
    """Whoever made it by themselves meant what is in it, or did not look."""
    private = Selection(Path(), (), PRIVATE_FILES)
    found = [name for name in names if private.is_private(name)]
    return (f"the ZIP is sent as it is, with what may be secret: {_named(found)}",) if found else ()


def _named(names: Sequence[str]) -> str:
    rest = len(names) - _MOST_NAMED
    return ", ".join(sorted(names)[:_MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _pack(found: _Found) -> Package:
    # Handed over open: the caller closes it.
    target: IO[bytes] = SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115
    try:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            for name in sorted(found.empty_folders, key=os.fsencode):
                folder = _entry(name + "/", stat.S_IFDIR | 0o755)
                folder.external_attr |= 0x10
                archive.writestr(folder, b"")
            for name, path in sorted(found.files, key=lambda pair: os.fsencode(pair[0])):
                _write_file(archive, name, path)
        size = target.tell()
    except BaseException:
        target.close()
        raise
    return Package(target, size, tuple(found.warnings))


def _write_file(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    # Opened without following links: what was a file when it was listed may be one no more.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    with os.fdopen(descriptor, "rb") as source:
        status = os.fstat(descriptor)
        entry = _entry(name, stat.S_IFREG | (0o755 if status.st_mode & 0o111 else 0o644))
        entry.file_size = status.st_size
        with archive.open(entry, "w") as sink:
            while chunk := source.read(_CHUNK_BYTES):
                sink.write(chunk)


def _entry(name: str, mode: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, date_time=_FIXED_TIME)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system = _UNIX
    entry.external_attr = mode << 16
    return entry


def _collect(root: Path, limits: PackageLimits, include: Sequence[str]) -> _Found:
    selection = Selection(root / IGNORE_FILE, DEFAULT_IGNORES, PRIVATE_FILES, include)
    found = _Found()
    waiting = [(root, "")]
    while waiting:
        folder, prefix = waiting.pop()
        kept = 0
        with os.scandir(folder) as entries:
            for entry in entries:
                is_folder = entry.is_dir(follow_symlinks=False)
                name = prefix + _readable(entry.name)
                taken = selection.takes(name + "/" if is_folder else name)
                if not taken and not (is_folder and selection.looks_into(name + "/")):
                    continue
                kept += 1
                _check_name(name, entry, limits)
                if is_folder:
                    found.folders += 1
                    waiting.append((Path(entry.path), name + "/"))
                else:
                    _add(found, entry, name)
                _check_bounds(found, limits, root)
        if prefix and not kept and selection.takes(prefix):
            found.empty_folders.append(prefix.rstrip("/"))
    found.warnings.sort()
    if selection.left_out:
        left_out = _named(sorted(selection.left_out))
        found.warnings.append(f"left out what may be secret: {left_out} (--include PATTERN sends it)")
    found.warnings += [
        f"--include {pattern}: there is no such file in {root}" for pattern in sorted(selection.unused)
    ]
    return found


def _add(found: _Found, entry: os.DirEntry[str], name: str) -> None:
    if entry.is_symlink():
        found.warnings.append(f"left out {name}: it is a link")
    elif entry.is_file(follow_symlinks=False):
        found.files.append((name, Path(entry.path)))
        found.unpacked_bytes += entry.stat(follow_symlinks=False).st_size
    else:
        found.warnings.append(f"left out {name}: it is not a plain file")


def _check_name(name: str, entry: os.DirEntry[str], limits: PackageLimits) -> None:
    """What a pool would refuse after the upload is said before it, with the path."""
    try:
        check_path(name)
    except InvalidPackageError as error:
        raise RefusedError(
            f"{entry.path!r}: {error}", hint=f"rename it, or name it in {IGNORE_FILE}"
        ) from error
    if name.count("/") + entry.is_dir(follow_symlinks=False) > limits.max_depth:
        raise RefusedError(
            f"{entry.path!r} is in more than {limits.max_depth} folders in each other",
            hint=f"name what is not needed in {IGNORE_FILE}",
        )


def _check_bounds(found: _Found, limits: PackageLimits, root: Path) -> None:
    count = len(found.files) + found.folders + len(found.warnings)
    if count > limits.max_entries:
        raise RefusedError(
            f"{root} has more than {limits.max_entries} files and folders; "
            f"name what is not needed in {IGNORE_FILE}"
        )
    if found.unpacked_bytes > limits.max_unpacked_bytes:
        raise RefusedError(
            f"{root} has over {limits.max_unpacked_bytes} bytes; name what is not needed in {IGNORE_FILE}"
        )


def _readable(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise RefusedError(f"the file name {name!r} is not Unicode, so it cannot be in a package") from None
    return name
