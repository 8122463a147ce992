"""What strangers send: packages that must be refused, and how a refusal is read."""

from __future__ import annotations

import io
import os
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator

import grpc
import pytest

from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.bombs import folder_bomb, method_of, overlapping, with_end
from tests.support.tasks import package, script

LOCAL_HEADER, CENTRAL_HEADER = b"PK\x03\x04", b"PK\x01\x02"


def refused(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    """The status and message of a call that must be refused; a streamed answer is read to its end."""
    with pytest.raises(grpc.RpcError) as caught:
        _to_its_end(call())
    error = caught.value
    assert isinstance(error, grpc.Call)
    return error.code(), error.details() or ""


def _to_its_end(answer: object) -> None:
    if isinstance(answer, Iterator):
        list(answer)


def upload(account: Account, request: pb.UploadTaskRequest) -> pb.UploadTaskResponse:
    """In one message."""
    return account.stubs.tasks.UploadTask(request, metadata=account.metadata, timeout=CALL_SECONDS)


def upload_streamed(account: Account, request: pb.UploadTaskRequest) -> pb.UploadTaskResponse:
    """The same task as a stream of messages."""
    return account.stubs.tasks.UploadTaskStream(
        as_stream(request), metadata=account.metadata, timeout=CALL_SECONDS
    )


Upload = Callable[[Account, pb.UploadTaskRequest], pb.UploadTaskResponse]


def as_stream(
    request: pb.UploadTaskRequest, piece_bytes: int = 64 << 10
) -> Iterator[pb.UploadTaskStreamRequest]:
    task = pb.UploadTaskRequest()
    task.CopyFrom(request)
    task.ClearField("task_zip")
    yield pb.UploadTaskStreamRequest(task=task)
    for begin in range(0, len(request.task_zip), piece_bytes):
        yield pb.UploadTaskStreamRequest(zip_chunk=request.task_zip[begin : begin + piece_bytes])


def zip_of(*entries: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    """A ZIP with main.py and these entries, doubles and all."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # zipfile warns of doubles
        archive.writestr("main.py", "print('it ran')")
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


def special_entry(kind: int) -> zipfile.ZipInfo:
    """An entry of a file type (stat.S_IFLNK, …) that is no plain file."""
    entry = zipfile.ZipInfo("entry")
    entry.create_system = 3
    entry.external_attr = (kind | 0o777) << 16
    return entry


def encrypted() -> bytes:
    """A ZIP whose entry says that it needs a password."""
    data = bytearray(script("print('it ran')"))
    for header, offset in ((LOCAL_HEADER, 6), (CENTRAL_HEADER, 8)):
        data[data.index(header) + offset] |= 1
    return bytes(data)


def with_size(said_bytes: int) -> bytes:
    """A ZIP whose entry says another size than it has."""
    data = bytearray(script("print('it ran')"))
    for header, offset in ((LOCAL_HEADER, 22), (CENTRAL_HEADER, 24)):
        struct.pack_into("<I", data, data.index(header) + offset, said_bytes)
    return bytes(data)


def with_wrong_bytes() -> bytes:
    """A ZIP whose entry does not have the CRC that it says."""
    data = bytearray(script("print('it ran')"))
    data[data.index(CENTRAL_HEADER) + 16] ^= 0xFF
    return bytes(data)


# What is wrong with it -> the package and words that the refusal must have. For a pool that takes
# 50 entries and 8 MiB unpacked.
MAX_ENTRIES, MAX_UNPACKED_BYTES = 50, 8 << 20
HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not a readable ZIP"),
    "no ZIP": (b"#!/bin/sh\necho hello\n", "not a readable ZIP"),
    "a truncated ZIP": (script("print(1)" * 100)[:-30], "not a readable ZIP"),
    "a ZIP without its start": (script("print(1)" * 100)[20:], "not a readable ZIP"),
    "an empty ZIP": (package({}), "empty"),
    "nothing to run": (package({"readme.txt": "hello", "sub/main.py": ""}), "nothing to run"),
    "an absolute path": (zip_of(("/etc/cron.d/evil", b"x")), "absolute"),
    "a drive letter": (zip_of(("C:/evil", b"x")), "absolute"),
    "a parent path": (zip_of(("../evil", b"x")), "leaves the package"),
    "a parent path within": (zip_of(("a/../../evil", b"x")), "leaves the package"),
    "a backslash": (zip_of((r"..\evil", b"x")), "not allowed"),
    "a link": (zip_of((special_entry(stat.S_IFLNK), b"/etc/passwd")), "link or a device"),
    "a device": (zip_of((special_entry(stat.S_IFCHR), b"")), "link or a device"),
    "a pipe": (zip_of((special_entry(stat.S_IFIFO), b"")), "link or a device"),
    "two of one name": (zip_of(("a.txt", b"1"), ("a.txt", b"2")), "two entries"),
    "two names on other disks": (zip_of(("a.txt", b"1"), ("A.TXT", b"2")), "two entries"),
    "a file as a folder": (zip_of(("a", b"1"), ("a/b", b"2")), "as a file and as a folder"),
    "too many entries": (zip_of(*((f"f{n}", b"") for n in range(MAX_ENTRIES))), "entries"),
    "a bomb by size": (zip_of(("zeros", bytes(MAX_UNPACKED_BYTES + 1))), "unpacks to"),
    "a bomb by ratio": (zip_of(("zeros", bytes(MAX_UNPACKED_BYTES // 2))), "bomb"),
    "a password": (encrypted(), "encrypted"),
    "a size that is too small": (with_size(3), "not a readable ZIP"),
    "a size that is too large": (with_size(1000), "cut short"),
    "folders that only paths name": (folder_bomb(10, 20), "files and folders"),
    "folders in each other": (folder_bomb(1, 40), "folders in each other"),
    "entries that share their bytes": (overlapping(20, b"x" * 5000), "overlap"),
    "LZMA": (method_of(zip_of(("a", b"1")), zipfile.ZIP_LZMA), "only stored and deflated"),
    "a listing that lies of its length": (with_end(zip_of(("a", b"1")), size=1 << 30), "not where it says"),
    "bytes before the first entry": (b"#!/bin/sh\n" + zip_of(("a", b"1")), "not where it says"),
    "one name written in two ways": (zip_of(("caf\u00e9", b"1"), ("cafe\u0301", b"2")), "two entries"),
    "a name that turns around": (zip_of(("a\u202eb", b"1")), "not allowed"),
    "wrong bytes": (with_wrong_bytes(), "not a readable ZIP"),
}


def incompressible(size_bytes: int) -> bytes:
    """A good package of at least this size."""
    return package({"main.py": "print('it ran')", "noise": os.urandom(size_bytes)})
