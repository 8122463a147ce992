"""Numbers of bytes, as people read them. Pure."""

from __future__ import annotations

KIB, MIB = 1 << 10, 1 << 20


def size_words(count: int) -> str:
    """6 MiB, 6.3 MiB, 512 KiB."""
    size, unit = (count / MIB, "MiB") if count >= MIB else (count / KIB, "KiB")
    return f"{size:.1f}".removesuffix(".0") + f" {unit}"
