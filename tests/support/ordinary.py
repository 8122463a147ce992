"""Programs of an ordinary user, for tests that run as root."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.environment import not_here


def python_of_anybody() -> str:
    """An interpreter that an ordinary user can start, of the version that our packages are for."""
    same_version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for path in (
        Path(sys.executable),
        *(Path(folder, same_version) for folder in ("/usr/local/bin", "/usr/bin")),
    ):
        if path.exists() and all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents):
            return str(path)
    return not_here("no Python of this version that an ordinary user can start")
