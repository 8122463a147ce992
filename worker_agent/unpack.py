"""A package becomes a working directory: checked once more, and written without following anything.

Here and now, for the process that `unpacking.py` starts. Every agent waits for that with its first package,
so this imports the rules of packages and nothing else of ours.
"""

from __future__ import annotations

import os
from pathlib import Path
from zipfile import ZipFile, ZipInfo

from nodepool.domain.errors import InvalidPackageError
from nodepool.domain.tasks.package_rules import PackageLimits, check_package, disk_bytes, entry_script

_COPY_BYTES = 1 << 18
_EXECUTABLE = 0o111


def unpack(
    package: int | Path, folder: Path, limits: PackageLimits, *, max_disk_bytes: int = 0, runs: bool = True
) -> str:
    """Unpack into the empty `folder`; returns the name of what is to be run, unless nothing is (`runs`).

    `package` is a path, or a descriptor that stays open. `max_disk_bytes`, unless 0, is asked of whole blocks
    and of folders too, before anything is written. Raises InvalidPackageError; what was unpacked until then
    stays for the caller to remove with the folder.
    """
    source = os.dup(package) if isinstance(package, int) else package
    with open(source, "rb") as file:  # noqa: PTH123  a descriptor too
        file.seek(0)
        entries = check_package(file, limits, runs=runs)
        if max_disk_bytes and (needed := disk_bytes(entries)) > max_disk_bytes:
            raise InvalidPackageError(
                f"the package takes {needed} bytes of disk when it is unpacked, "
                f"more than the {max_disk_bytes} that a working directory may have"
            )
        with ZipFile(file) as archive:
            for entry in entries:
                _unpack_entry(archive, entry, folder)
    return entry_script([entry.filename for entry in entries]) if runs else ""


def _unpack_entry(archive: ZipFile, entry: ZipInfo, folder: Path) -> None:
    target = folder / entry.filename
    if entry.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return
    if "/" in entry.filename:
        target.parent.mkdir(parents=True, exist_ok=True)
    mode = 0o755 if (entry.external_attr >> 16) & _EXECUTABLE else 0o644
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    left = entry.file_size
    with open(os.open(target, flags, mode), "wb") as out:  # noqa: PTH123
        try:
            with archive.open(entry) as source:
                while chunk := source.read(_COPY_BYTES):
                    left -= len(chunk)
                    if left < 0:
                        raise InvalidPackageError(
                            f"the entry {entry.filename[:100]!r} is larger than it says"
                        )
                    out.write(chunk)
        except InvalidPackageError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the node's disk, not the package
            raise InvalidPackageError(
                f"the entry {entry.filename[:100]!r} cannot be unpacked: {error}"
            ) from error
    if left:
        raise InvalidPackageError(f"the entry {entry.filename[:100]!r} is cut short")
