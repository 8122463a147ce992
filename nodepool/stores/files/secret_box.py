"""Values of users' secrets as SQL has them: sealed as a stored file is, under a user and a name.

What was sealed for somebody else, under another name or with another key does not open: a row that is put in
another's place gives nothing away. Knows no table.
"""

from __future__ import annotations

import io

from nodepool.domain.errors import CorruptFileError
from nodepool.stores.files.encryption import has_header_of, seal, unseal


class SecretBox:
    """`may_seal`: the key is one that is kept elsewhere than what it opens."""

    def __init__(self, key: bytes, *, may_seal: bool) -> None:
        self._key = key
        self.may_seal = may_seal

    def seal(self, user_id: int, name: str, value: str) -> bytes:
        return seal(self._key, _place(user_id, name), value.encode())

    def opens(self, user_id: int, name: str, sealed: bytes) -> bool:
        """Whether the key is the one that it was sealed with, by its beginning."""
        return has_header_of(self._key, _place(user_id, name), sealed)

    def open(self, user_id: int, name: str, sealed: bytes) -> str:
        """Raises CorruptFileError."""
        plain = b"".join(unseal(self._key, _place(user_id, name), io.BytesIO(sealed)))
        try:
            return plain.decode()
        except ValueError as error:
            raise CorruptFileError from error


def _place(user_id: int, name: str) -> str:
    """No file has such a name."""
    return f"secret/{user_id}/{name}"
