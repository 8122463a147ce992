"""Packages and messages that are small to send and dear to look at."""

from __future__ import annotations

import io
import random
import string
import zipfile

ENTRIES = 9_990
DEPTH = 200
DENSE_BYTES = 500 << 20
_PIECE = bytes(1 << 20)


def folders() -> bytes:
    """ENTRIES files, each below DEPTH folders that no other has: two million folders in 9 MB."""
    kept = io.BytesIO()
    with zipfile.ZipFile(kept, "w", zipfile.ZIP_STORED) as file:
        file.writestr("main.py", "print(1)\n")
        for number in range(ENTRIES):
            file.writestr(f"{number:x}/" + "a/" * DEPTH + "x", b"")
    return kept.getvalue()


def dense(seed: int) -> bytes:
    """Unpacks to DENSE_BYTES of zeros, by entries of 100 MiB. Another `seed` makes another package."""
    kept = io.BytesIO()
    with zipfile.ZipFile(kept, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr("main.py", f"print({seed})\n")
        for number in range(5):
            with file.open(f"zeros{number}", "w") as entry:
                for _ in range(DENSE_BYTES // 5 >> 20):
                    entry.write(_PIECE)
        # Against the bound on how much a package may grow.
        file.writestr("ballast", random.Random(seed).randbytes(3 << 20))
    return kept.getvalue()


def late_damage(seed: int) -> bytes:
    """Like dense(), and its last bytes are not what they say: refused at the end."""
    package = bytearray(dense(seed))
    middle = package.rfind(b"ballast", 0, len(package) - (1 << 20)) + 1000
    package[middle] ^= 0xFF
    return bytes(package)


def lzma_dictionary() -> bytes:
    """One LZMA entry that asks for a dictionary of 4 GiB."""
    kept = io.BytesIO()
    with zipfile.ZipFile(kept, "w", zipfile.ZIP_LZMA) as file:
        file.writestr("main.py", "print(1)\n" * 100)
    package = bytearray(kept.getvalue())
    # Local header, name, version and size of the properties, one byte of them, then the dictionary's size.
    at = 30 + len("main.py") + 4 + 1
    package[at : at + 4] = b"\xff\xff\xff\xff"
    return bytes(package)


def small(seed: int, size: int) -> bytes:
    """A package of about `size` bytes that cannot be made smaller."""
    kept = io.BytesIO()
    with zipfile.ZipFile(kept, "w", zipfile.ZIP_STORED) as file:
        file.writestr("main.py", "print(1)\n")
        file.writestr("data", random.Random(seed).randbytes(size))
    return kept.getvalue()


def name() -> str:
    return "".join(random.choices(string.ascii_lowercase, k=12))
