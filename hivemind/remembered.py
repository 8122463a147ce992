"""Which of a pool's gateways worked when another was away: so the next command does not find it out again.

A hint that may be lost or wrong, kept for some minutes. Knows no connection.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Mapping
from pathlib import Path

# By then chance may choose again: the other may be back.
REMEMBERED_SECONDS = 600.0
_MAX_BYTES = 64 << 10
_MAX_POOLS = 32


def remembered_path(environment: Mapping[str, str]) -> Path:
    """`$XDG_CACHE_HOME/hivemind/gateways.json`, by default under `~/.cache`."""
    base = environment.get("XDG_CACHE_HOME", "")
    home = Path(environment.get("HOME") or Path.home())
    root = Path(base) if base and Path(base).is_absolute() else home / ".cache"
    return root / "hivemind" / "gateways.json"


def recall(path: Path, gateways: str, now: float) -> str:
    """The address that worked last; empty when there was no trouble lately."""
    known = _read(path).get(gateways)
    if not isinstance(known, dict):
        return ""
    address, at = known.get("address"), known.get("at")
    fresh = isinstance(at, int | float) and 0 <= now - at < REMEMBERED_SECONDS
    return address if fresh and isinstance(address, str) else ""


def remember(path: Path, gateways: str, address: str, now: float) -> None:
    """Does without where it cannot be written."""
    known = {**_read(path), gateways: {"address": address, "at": now}}
    for name in list(known)[:-_MAX_POOLS]:
        del known[name]
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            fresh.write_text(json.dumps(known), encoding="utf-8")
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            data = json.loads(file.read(_MAX_BYTES))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
