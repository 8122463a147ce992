"""ZIP files that ask for more than they are: small here, and bounded."""

from __future__ import annotations

import io
import struct
import zipfile


def folder_bomb(entries: int, depth: int, *, main: bool = True) -> bytes:
    """Each entry lies in folders of its own, which no entry names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        if main:
            archive.writestr("main.py", "print('hello')")
        for number in range(entries):
            archive.writestr(f"{number:x}/" + "d/" * (depth - 1) + "f", "")
    return buffer.getvalue()


def overlapping(copies: int, content: bytes) -> bytes:
    """Many entries of the listing that are one and the same piece of the file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("main.py", "print('hello')")
        archive.writestr("f000", content)
    data = buffer.getvalue()
    begins = data.index(b"PK\1\2")
    end = data.rindex(b"PK\5\6")
    first = data.index(b"PK\1\2", begins + 4)
    listing = data[begins:first] + b"".join(
        data[first:end].replace(b"f000", b"f%03d" % number) for number in range(copies)
    )
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, copies + 1, copies + 1, len(listing), begins, 0)
    return data[:begins] + listing + tail


def with_end(data: bytes, *, entries: int | None = None, size: int | None = None) -> bytes:
    """The same with lies in its last record."""
    patched = bytearray(data)
    at = data.rindex(b"PK\5\6")
    if entries is not None:
        struct.pack_into("<2H", patched, at + 8, entries, entries)
    if size is not None:
        struct.pack_into("<L", patched, at + 12, size)
    return bytes(patched)


def method_of(data: bytes, method: int) -> bytes:
    """The last entry says that it is packed by this method, in the listing and before its bytes."""
    patched = bytearray(data)
    listed = data.rindex(b"PK\1\2")
    struct.pack_into("<H", patched, listed + 10, method)
    struct.pack_into("<H", patched, data.rindex(b"PK\3\4") + 8, method)
    return bytes(patched)
