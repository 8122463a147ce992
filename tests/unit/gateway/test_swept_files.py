"""The gateway removes what writers left that died, and never what somebody still writes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway import server
from nodepool.stores.files import disk
from nodepool.stores.files.file_store import FileStore

WRITING = """
import sys, time
from pathlib import Path
from nodepool.stores.files.file_store import FileStore
writer = FileStore(Path(sys.argv[1]), bytes(range(32))).package_writer()
writer.write(b"x" * 100_000)
print("written", flush=True)
sys.stdin.read()
"""


def writing(root: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITING, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    return process


def swept(files: FileStore) -> None:
    """What the gateway does when it begins to serve."""

    async def run(work: Any, *arguments: Any) -> Any:
        return work(*arguments)

    async def once() -> None:
        gateway = SimpleNamespace(files=files, run=run, clock=lambda: 1_000_000.0)
        sweeping = asyncio.ensure_future(server._sweep_files(cast(Any, gateway)))
        await asyncio.sleep(0)
        sweeping.cancel()

    asyncio.run(once())


def test_what_a_killed_writer_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    files = FileStore(tmp_path / "store", bytes(range(32)))
    incoming = tmp_path / "store" / "incoming"
    with writing(tmp_path / "store") as killed:
        (left,) = incoming.iterdir()
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    with writing(tmp_path / "store") as living:
        assert len(list(incoming.iterdir())) == 2
        for path in incoming.iterdir():
            os.utime(path, (1000, 1000))
        swept(files)
        (kept,) = incoming.iterdir()
        assert kept != left
        living.kill()
    swept(files)
    assert list(incoming.iterdir()) == []


def test_one_sweep_is_bounded_and_the_next_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "MOST_SWEPT", 2)
    for number in range(3):
        (tmp_path / f"{number}.part").touch()
    assert [disk.sweep_left(tmp_path, -1.0, 1e12) for _ in range(3)] == [2, 1, 0]
