"""Packages that tests submit: a ZIP from a few texts."""

from __future__ import annotations

import io
import secrets
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

from nodepool.domain.tasks.package_rules import ENTRY_SCRIPTS


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


def result_of_run(zip_bytes: bytes, folder: Path) -> bytes:
    """What is in the folder after the package has run there, as a node without any isolation runs it."""
    files = unpacked(zip_bytes)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    entry = next(name for name in ENTRY_SCRIPTS if name in files)
    subprocess.run([sys.executable, entry], cwd=folder, check=True)
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return package({str(path.relative_to(folder)): path.read_bytes() for path in paths})
