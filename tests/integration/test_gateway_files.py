"""What the gateway has on its disk while an upload is on its way, and after it died with one."""

from __future__ import annotations

import os
import random
import threading
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import grpc
import pytest

from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import register
from tests.support.environment import not_here
from tests.support.gateway import GatewayProcess
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until

WORDS = b"the words of a package that nobody else may read; "


def package() -> bytes:
    made = BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("main.py", "print('up')")
        archive.writestr("words.txt", WORDS * (4 << 20 >> 5))
        archive.writestr("more.bin", random.Random(1).randbytes(1 << 20))
    return made.getvalue()


def on_disk(pid: int, storage: Path) -> bytes:
    """All bytes that the process holds open below the folder, with a name or without, and all files there."""
    found = [path.read_bytes() for path in storage.rglob("*") if path.is_file()]
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if str(link.readlink()).startswith(str(storage)) and link.is_file():
                found.append(link.read_bytes())
        except OSError:
            continue
    return b"".join(found)


def test_an_upload_on_its_way_is_readable_nowhere(tmp_path: Path, valkey: TestValkey) -> None:
    if os.geteuid():
        not_here("only root may look at the files that a gateway holds open")
    storage = tmp_path / "storage"
    gateway = GatewayProcess(tmp_path, valkey).start_serving()
    let_go = threading.Event()
    sent = package()

    def messages() -> Iterator[pb.UploadTaskStreamRequest]:
        yield pb.UploadTaskStreamRequest(task=pb.UploadTaskRequest(task_id="on-its-way"))
        for start in range(0, len(sent), 256 << 10):
            yield pb.UploadTaskStreamRequest(zip_chunk=sent[start : start + (256 << 10)])
        let_go.wait(60)

    try:
        user = register(gateway.stubs, "somebody", "a long enough password")
        call = gateway.stubs.tasks.UploadTaskStream.future(messages(), metadata=user.metadata, timeout=60)
        wait_until(
            lambda: len(on_disk(gateway.pid, storage)) > len(sent) - (2 << 20), "it is on the disk", 30
        )
        assert WORDS not in on_disk(gateway.pid, storage)
        gateway.kill()
        assert WORDS not in on_disk(os.getpid(), storage)
        let_go.set()
        with pytest.raises(grpc.RpcError):
            call.result()
    finally:
        let_go.set()
        gateway.close()


def test_what_a_dead_writer_left_is_gone_when_the_gateway_serves(tmp_path: Path, valkey: TestValkey) -> None:
    incoming = tmp_path / "storage/incoming"
    incoming.mkdir(mode=0o700, parents=True)
    left = incoming / "0123.part"
    left.write_bytes(b"sealed")
    os.utime(left, (1000, 1000))
    gateway = GatewayProcess(tmp_path, valkey).start_serving()
    try:
        wait_until(lambda: not left.exists(), "the file is gone", 30)
    finally:
        gateway.close()
