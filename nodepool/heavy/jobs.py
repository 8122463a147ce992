"""What worker processes do: check a package, take a result's digest, and read the output out of a result.

Each opens what it is given and nothing else: bytes, or one sealed file with that file's own key.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from contextlib import ExitStack

from nodepool.domain.errors import CorruptFileError
from nodepool.domain.tasks import arrays
from nodepool.domain.tasks.arrays import ArrayInputs
from nodepool.domain.tasks.package_rules import PackageLimits, check_package
from nodepool.domain.trust import result_digest
from nodepool.domain.trust.result_digest import IncomparableError, Ran
from nodepool.stores.files.encryption import Sealed, SealedReader

OUTPUT_FILE = "task_logs.txt"
_UNREADABLE = (
    KeyError, zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError, OSError,
    OverflowError, CorruptFileError,
)  # fmt: skip


def check(package: bytes, limits: PackageLimits) -> None:
    """Raises InvalidPackageError."""
    check_package(io.BytesIO(package), limits, read_all=True)


def expand(items: bytes, inputs: ArrayInputs) -> list[str]:
    """Tasks of an array as they are stored, in pieces. Raises InvalidInputError."""
    return arrays.expand(items, inputs)


def digest(
    ran: Ran, result: Sealed | None, package: Sealed | None, patterns: tuple[str, ...], max_bytes: int
) -> str | None:
    """nodepool.domain.trust.result_digest's digest; None where the result cannot be compared."""
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(_open(result)) if result is not None else None
            base = stack.enter_context(_open(package)) if package is not None else None
            return result_digest.digest(ran, opened, base, patterns, max_bytes)
        except (IncomparableError, CorruptFileError, OSError, ValueError):
            return None


def output(result: Sealed, max_bytes: int) -> bytes:
    """The output in a result, at most so much of it; empty where there is none that can be read."""
    try:
        with _open(result) as file, zipfile.ZipFile(file) as archive, archive.open(OUTPUT_FILE) as found:
            return found.read(max_bytes)
    except _UNREADABLE:
        return b""


def _open(sealed: Sealed) -> io.BufferedReader:
    return io.BufferedReader(SealedReader(sealed), 1 << 16)
