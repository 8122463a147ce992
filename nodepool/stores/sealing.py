"""How stored files are encrypted: AES-256-GCM frames under a key of each file's own.

A sealed file is: magic and version, 24 random bytes, a tag of the name, then frames. The frame's
number and whether it is the last are authenticated, so a file that was changed, cut, reordered,
lengthened or put in another's place is found. This file knows no folders and opens nothing.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterator
from typing import IO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from nodepool.errors import CorruptFileError

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
    header = file.read(HEADER_BYTES)
    random = header[len(_MAGIC) : len(_MAGIC) + _RANDOM_BYTES]
    if not hmac.compare_digest(header, _MAGIC + random + _name_tag(key, random, name)):
        raise CorruptFileError
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


# A key for each file: the random part of a nonce alone would repeat some day in a busy store.
def _file_cipher(key: bytes, random: bytes) -> AESGCM:
    return AESGCM(hmac.digest(key, b"file" + random[:_SALT_BYTES], "sha256"))


def _name_tag(key: bytes, random: bytes, name: str) -> bytes:
    return hmac.digest(key, b"name" + random + name.encode(), "sha256")[:_NAME_TAG_BYTES]


def _nonce(random: bytes, number: int) -> bytes:
    return random[_SALT_BYTES:] + number.to_bytes(4, "big")


def _frame_data(*, final: bool) -> bytes:
    return _MAGIC + (b"last" if final else b"more")
