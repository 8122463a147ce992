"""Packages that tests submit: a ZIP from a few texts."""

from __future__ import annotations

import io
import secrets
import zipfile
from collections.abc import Mapping


def package(files: Mapping[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def script(source: str) -> bytes:
    """A package whose only file is this main.py."""
    return package({"main.py": source})


def unpacked(zip_bytes: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(zip_bytes)) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def new_task_id() -> str:
    return f"task_{secrets.token_hex(8)}"
