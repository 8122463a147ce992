"""A task that uses much of what ordinary programs use. Runs inside the sandbox: the standard library only."""

from __future__ import annotations

import asyncio
import mmap
import multiprocessing
import multiprocessing.shared_memory
import os
import pty
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path


def square(number: int) -> int:
    return number * number


async def echo() -> bytes:
    process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    output, _ = await process.communicate(b"through a pipe")
    return output


def main() -> None:
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            assert list(pool.map(square, range(4))) == [0, 1, 4, 9]
    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(square, range(10))) == 285
    shared = multiprocessing.shared_memory.SharedMemory(create=True, size=4096)
    shared.buf[:4] = b"here"
    shared.close()
    shared.unlink()
    assert asyncio.run(echo()) == b"through a pipe"
    with sqlite3.connect("data.db") as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE numbers (value INTEGER)")
        database.execute("INSERT INTO numbers VALUES (1)")
    database.close()
    left, right = socket.socketpair()
    left.send(b"x")
    assert right.recv(1) == b"x"
    assert socket.if_nameindex()
    with tempfile.TemporaryFile() as file:
        file.truncate(4096)
        mmap.mmap(file.fileno(), 4096).close()
    master, slave = pty.openpty()
    assert os.isatty(slave)
    os.close(master)
    os.close(slave)
    shutil.copytree(Path.cwd(), "/tmp/copy", dirs_exist_ok=True)
    subprocess.run([sys.executable, "-c", "import threading, ssl, hashlib"], check=True)
    done = threading.Event()
    threading.Thread(target=done.set).start()
    assert done.wait(60)
    if shutil.which("git"):
        subprocess.run(["git", "init", "-q", "repository"], check=True)
    print("all of it worked")


if __name__ == "__main__":
    main()
