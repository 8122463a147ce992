"""What a backup says of itself: a manifest, and an index of its files. Pure.

Whatever is read is checked before it is believed: a backup may be cut, changed or of a newer version. Names
of files become paths where it is restored, so none may lead elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from nodepool.domain.errors import NodePoolError

FORMAT = 1
_KEY_CHECK = b"hivemind node pool backup, key check 1"
_PART = r"[A-Za-z0-9_][A-Za-z0-9._~@-]{0,254}"
_NAME = re.compile(rf"{_PART}(?:/{_PART}){{1,4}}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}")


class BackupError(NodePoolError):
    """The backup cannot be made or used."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the pool's storage as it was; its content lies under its hash."""

    name: str  # relative to the storage
    size_bytes: int
    modified_ns: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Written last: a backup without one is none."""

    format: int
    id: str
    made_at: float
    revision: str  # of the database
    database_kind: str  # sqlite, postgresql
    database_server: str
    database_file: str
    database_bytes: int
    database_sha256: str
    index_sha256: str
    files: int
    file_bytes: int
    missing: tuple[str, ...]  # of what the database names; the pool itself had lost it
    key_check: str
    tasks: int
    ledger_entries: int
    ledger_head: str
    ledger_right: bool


def key_check(key: bytes) -> str:
    """Says whether a key is the backup's, and nothing else of it."""
    return hashlib.sha256(_KEY_CHECK + key).hexdigest()


def is_backup_id(text: str) -> bool:
    return bool(_ID.fullmatch(text))


def is_file_name(name: str) -> bool:
    return bool(_NAME.fullmatch(name))


def manifest_text(manifest: Manifest) -> str:
    body = asdict(manifest)
    return json.dumps({**body, "sha256": _body_hash(body)}, indent=1, sort_keys=True) + "\n"


def read_manifest(text: str) -> Manifest:
    """Raises BackupError for one that is cut, changed, or of a newer version."""
    try:
        body = json.loads(text)
        claimed = body.pop("sha256")
        if int(body["format"]) > FORMAT:
            raise BackupError(
                "the backup was made by a newer version of the pool: restore it with that version"
            )
        if _body_hash(body) != claimed or set(body) != {field.name for field in fields(Manifest)}:
            raise ValueError("its hash")
        manifest = Manifest(**{**body, "missing": tuple(body["missing"])})
        if not is_backup_id(manifest.id) or not re.fullmatch(_PART, manifest.database_file):
            raise ValueError("a name")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackupError("the backup's manifest is damaged: use another backup") from error
    return manifest


def _body_hash(body: dict[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), default=list)
    return hashlib.sha256(text.encode()).hexdigest()


def index_text(files: Iterable[StoredFile]) -> str:
    """One line for each file, by name."""
    return "".join(
        json.dumps([file.name, file.size_bytes, file.modified_ns, file.sha256]) + "\n"
        for file in sorted(files, key=lambda file: file.name)
    )


def index_hash(files: Iterable[StoredFile]) -> str:
    return hashlib.sha256(index_text(files).encode()).hexdigest()


def read_index(text: str) -> dict[str, StoredFile]:
    """Raises BackupError."""
    found = {}
    try:
        for line in text.splitlines():
            name, size, modified, sha256 = json.loads(line)
            if not is_file_name(name) or not _SHA256.fullmatch(sha256) or int(size) < 0:
                raise ValueError(name)
            found[name] = StoredFile(name, int(size), int(modified), sha256)
    except (ValueError, TypeError) as error:
        raise BackupError("the backup's list of files is damaged: use another backup") from error
    return found


def to_be_deleted(ids: Iterable[str], keep: int) -> list[str]:
    """All but the newest `keep`; none where that is 0. An id begins with its time."""
    ordered = sorted(ids)
    return ordered[:-keep] if keep > 0 else []
