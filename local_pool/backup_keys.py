"""The keys of a pool, and where a backup has them: in a folder of their own, apart from what they open.

Names in that folder: `storage` and `jwt` are secrets as settings have them, `storage.key` is the key file of
a pool without STORAGE_KEY, and what else `hivemind up` keeps in `secrets/` has its own name.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from local_pool.pool_place import PoolPlace
from local_pool.private_files import private_dir
from nodepool.domain.backups.manifest import BackupError
from nodepool.stores.files.encryption import KEY_BYTES, key_from_secret

STORAGE, STORAGE_FILE, JWT = "storage", "storage.key", "jwt"
JWT_FILE = "jwt.secret"
WHY_APART = (
    "whoever has the keys and the rest reads every package and result, and can make tokens for anybody: "
    "keep them in another place"
)


@dataclass(frozen=True, slots=True)
class PoolKeys:
    """By their names. `storage_key` is what files are encrypted with."""

    files: dict[str, bytes]

    @property
    def storage_key(self) -> bytes:
        """Raises BackupError."""
        if STORAGE in self.files:
            return key_from_secret(self.files[STORAGE].decode().strip())
        key = self.files.get(STORAGE_FILE, b"")
        if len(key) != KEY_BYTES:
            raise BackupError(
                "the key of the pool's files is not there: set STORAGE_KEY as the pool has it, give the "
                "folder of the keys, or be a user who can read the pool's secrets"
            )
        return key


def default_folder(backups: Path) -> Path:
    """Beside the backups, so that whoever copies these does not copy the keys."""
    return backups.with_name(f"{backups.name}.keys")


def of_pool(place: PoolPlace) -> PoolKeys:
    """As the pool's parts find them: settings first, then `hivemind up`'s secrets, then the storage's own."""
    files: dict[str, bytes] = {}
    settings, given = place.settings, place.settings.model_fields_set
    for path in (place.storage / STORAGE_FILE, place.storage / JWT_FILE):
        if path.is_file():
            files[STORAGE_FILE if path.name == STORAGE_FILE else JWT] = _read(path)
    if place.secrets is not None and place.secrets.is_dir():
        for path in sorted(place.secrets.iterdir()):
            if path.is_file() and not path.name.startswith("."):
                files[path.name] = _read(path)
        if "task_storage_path" in given and STORAGE_FILE in files:
            # Such a storage has the key beside it, whatever is in the secrets.
            files.pop(STORAGE, None)
    if settings.storage_key:
        files[STORAGE] = settings.storage_key.encode()
    if settings.jwt_secret_key:
        files[JWT] = settings.jwt_secret_key.encode()
    if STORAGE in files:
        files.pop(STORAGE_FILE, None)
    return PoolKeys(files)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BackupError(f"the pool's secrets cannot be read: {error}") from error


def save(keys: PoolKeys, folder: Path, backup_id: str) -> Path:
    """All or none of them, for their owner only."""
    target, draft = folder / backup_id, folder / f".{backup_id}.part"
    try:
        private_dir(folder)
        draft.mkdir(mode=0o700)
        for name, content in keys.files.items():
            descriptor = os.open(draft / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        draft.rename(target)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise BackupError(f"the keys cannot be kept in {folder}: {error}") from error
    return target


def load(folder: Path, backup_id: str) -> PoolKeys:
    """Those of this backup; a folder that has keys itself is one of a single backup."""
    place = folder / backup_id
    if not place.is_dir():
        place = folder
    if not place.is_dir():
        return PoolKeys({})
    return PoolKeys({path.name: _read(path) for path in place.iterdir() if path.is_file()})


def forget(folder: Path, backup_ids: list[str]) -> None:
    for backup_id in backup_ids:
        shutil.rmtree(folder / backup_id, ignore_errors=True)
