"""How stored files are encrypted: AES-256-GCM frames under a key of each file's own.

A sealed file is: magic and version, 24 random bytes, a tag of the name, then frames. The frame's
number and whether it is the last are authenticated, so a file that was changed, cut, reordered,
lengthened or put in another's place is found. This file knows no folders and opens nothing.
"""

from __future__ import annotations

import hmac
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from nodepool.domain.errors import CorruptFileError

KEY_BYTES = 32
FRAME_BYTES = 64 << 10
_MAGIC = b"HMNP\x01"
_SALT_BYTES = 16
_PREFIX_BYTES = 8
_RANDOM_BYTES = _SALT_BYTES + _PREFIX_BYTES
_NAME_TAG_BYTES = 16
TAG_BYTES = 16
HEADER_BYTES = len(_MAGIC) + _RANDOM_BYTES + _NAME_TAG_BYTES


def key_from_secret(secret: str) -> bytes:
    """The 32-byte key that a secret stands for; always the same for the same secret."""
    derivation = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=b"hivemind node pool files 1")
    return derivation.derive(secret.encode())


class Sealer:
    """Encrypts one file; frames are asked for in order, the last one with `final`."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._random = os.urandom(_RANDOM_BYTES)
        self._cipher = _file_cipher(key, self._random)
        self._frames = 0

    def header(self, name: str) -> bytes:
        """The first HEADER_BYTES of the file; the name may be known only when all frames are made."""
        return _MAGIC + self._random + _name_tag(self._key, self._random, name)

    def frame(self, plain: bytes, *, final: bool) -> bytes:
        """`plain` is FRAME_BYTES long; the final frame has what is left and may be empty."""
        sealed = self._cipher.encrypt(_nonce(self._random, self._frames), plain, _frame_data(final=final))
        self._frames += 1
        return sealed


def seal(key: bytes, name: str, plain: bytes) -> bytes:
    """A whole sealed file at once."""
    sealer = Sealer(key)
    parts = [sealer.header(name)]
    start = 0
    while len(plain) - start > FRAME_BYTES:
        parts.append(sealer.frame(plain[start : start + FRAME_BYTES], final=False))
        start += FRAME_BYTES
    parts.append(sealer.frame(plain[start:], final=True))
    return b"".join(parts)


def unseal(key: bytes, name: str, file: IO[bytes]) -> Iterator[bytes]:
    """First b"" when the header is right, then the plain bytes, a frame at a time.

    Raises CorruptFileError at the first thing that is wrong. A cut file is found at its end only:
    what was yielded is true, but not all there is, until the iterator ends without an error.
    """
    random = _random_of(key, name, file.read(HEADER_BYTES))
    yield b""
    cipher = _file_cipher(key, random)
    number = 0
    frame = file.read(FRAME_BYTES + TAG_BYTES)
    while True:
        following = file.read(FRAME_BYTES + TAG_BYTES)
        try:
            plain = cipher.decrypt(_nonce(random, number), frame, _frame_data(final=not following))
        except (InvalidTag, ValueError) as error:
            raise CorruptFileError from error
        if plain:
            yield plain
        if not following:
            return
        frame = following
        number += 1


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed file by its path, and what opens this one and no other."""

    path: str
    key: bytes


def key_of(key: bytes, name: str, path: str) -> Sealed:
    """Raises CorruptFileError where the file at the path is not the one of that name; OSError."""
    with open(path, "rb") as file:  # noqa: PTH123
        header = file.read(HEADER_BYTES)
    return Sealed(path, _file_key(key, _random_of(key, name, header)))


def has_header_of(key: bytes, name: str, sealed: bytes) -> bool:
    """Whether it was sealed with this key, under this name."""
    try:
        _random_of(key, name, sealed[:HEADER_BYTES])
    except CorruptFileError:
        return False
    return True


def _random_of(key: bytes, name: str, header: bytes) -> bytes:
    """Raises CorruptFileError where the header is not that of a file of this name, under this key."""
    random = header[len(_MAGIC) : len(_MAGIC) + _RANDOM_BYTES]
    if not hmac.compare_digest(header, _MAGIC + random + _name_tag(key, random, name)):
        raise CorruptFileError
    return random


def plain_bytes(sealed_bytes: int) -> int:
    """How long the content of a sealed file of that length is."""
    body = max(0, sealed_bytes - HEADER_BYTES)
    frames = -(-body // (FRAME_BYTES + TAG_BYTES))
    return max(0, body - frames * TAG_BYTES)


class SealedReader(io.RawIOBase):
    """A sealed file to read from anywhere, a frame in memory at a time. Raises CorruptFileError; OSError."""

    def __init__(self, sealed: Sealed) -> None:
        super().__init__()
        self._file = open(sealed.path, "rb")  # noqa: PTH123, SIM115 - close() closes it
        header = self._file.read(HEADER_BYTES)
        self._random = header[len(_MAGIC) : len(_MAGIC) + _RANDOM_BYTES]
        self._cipher = AESGCM(sealed.key)
        sealed_bytes = os.fstat(self._file.fileno()).st_size
        self._size = plain_bytes(sealed_bytes)
        self._frames = -(-max(0, sealed_bytes - HEADER_BYTES) // (FRAME_BYTES + TAG_BYTES))
        self._at = 0
        self._number, self._plain = -1, b""
        self._load(self._frames - 1)  # the last one says that nothing was cut off

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError("negative position")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._at >= self._size:
            return 0
        number, start = divmod(self._at, FRAME_BYTES)
        self._load(number)
        piece = self._plain[start : start + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def close(self) -> None:
        self._file.close()
        super().close()

    def _load(self, number: int) -> None:
        if number == self._number:
            return
        self._file.seek(HEADER_BYTES + number * (FRAME_BYTES + TAG_BYTES))
        frame = self._file.read(FRAME_BYTES + TAG_BYTES)
        final = number == self._frames - 1
        try:
            plain = self._cipher.decrypt(_nonce(self._random, number), frame, _frame_data(final=final))
        except (InvalidTag, ValueError, OverflowError) as error:
            raise CorruptFileError from error
        self._number, self._plain = number, plain


# A key for each file: the random part of a nonce alone would repeat some day in a busy store.
def _file_cipher(key: bytes, random: bytes) -> AESGCM:
    return AESGCM(_file_key(key, random))


def _file_key(key: bytes, random: bytes) -> bytes:
    return hmac.digest(key, b"file" + random[:_SALT_BYTES], "sha256")


def _name_tag(key: bytes, random: bytes, name: str) -> bytes:
    return hmac.digest(key, b"name" + random + name.encode(), "sha256")[:_NAME_TAG_BYTES]


def _nonce(random: bytes, number: int) -> bytes:
    return random[_SALT_BYTES:] + number.to_bytes(4, "big")


def _frame_data(*, final: bool) -> bytes:
    return _MAGIC + (b"last" if final else b"more")
