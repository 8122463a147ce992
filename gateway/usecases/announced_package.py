"""What a client said that its package is, and whether that is what came. Knows no transport and no store."""

from __future__ import annotations

import hashlib
import re

from nodepool.domain.errors import InvalidInputError

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Announced:
    """The size and SHA-256 of an upload, as told before it. Older clients tell neither: 0 and ""."""

    def __init__(self, size_bytes: int, sha256: str) -> None:
        if size_bytes < 0:
            raise InvalidInputError(f"package_bytes must be the package's size, not {size_bytes}")
        if sha256 and not _SHA256.fullmatch(sha256.lower()):
            raise InvalidInputError("package_sha256 must be 64 hexadecimal digits")
        self._size_bytes, self._sha256 = size_bytes, sha256.lower()
        self._hash = hashlib.sha256()
        self._taken_bytes = 0

    def take(self, piece: bytes) -> None:
        """Raises InvalidInputError as soon as more came than was told."""
        self._taken_bytes += len(piece)
        if self._size_bytes and self._taken_bytes > self._size_bytes:
            raise InvalidInputError(
                f"more came than the {self._size_bytes} bytes of package_bytes; nothing was kept"
            )
        if self._sha256:
            self._hash.update(piece)

    def check_whole(self) -> None:
        """Raises InvalidInputError where what came is not what was told."""
        if self._size_bytes and self._taken_bytes != self._size_bytes:
            raise InvalidInputError(
                f"only {self._taken_bytes} of the {self._size_bytes} bytes of package_bytes came; "
                "nothing was kept: send it again"
            )
        if self._sha256 and self._hash.hexdigest() != self._sha256:
            raise InvalidInputError(
                "the package that came does not have its package_sha256; nothing was kept: send it again"
            )
