"""What a pool keeps encrypted under its storage folder is opened: all of it with one key."""

from __future__ import annotations

from pathlib import Path

from nodepool.stores.files.file_store import FileStore, load_or_make_key
from nodepool.stores.files.secret_box import SecretBox


def open_files(root: Path, secret: str) -> FileStore:
    """`secret` as STORAGE_KEY has it; empty: the key is in a file of the folder. Raises CorruptFileError."""
    return FileStore(root, _key(root, secret))


def open_secret_box(root: Path, secret: str) -> SecretBox:
    """Seals for users only where the key is kept elsewhere than what it opens. Raises CorruptFileError."""
    return SecretBox(_key(root, secret), may_seal=bool(secret))


def _key(root: Path, secret: str) -> bytes:
    return load_or_make_key(secret, root / "storage.key")
