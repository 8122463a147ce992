"""Takes the values of secrets out of what a run prints, before anybody is sent it or keeps it. Pure.

What is masked: each value, each line of one that has several, and each whole piece of PIECE_BYTES bytes of
it, wherever they are printed as they are. What is not: a value that is written another way (base64,
reversed, every other letter), one of fewer than LEAST_BYTES bytes, and files.

All pieces are equally long, so that the time for each byte of output has a bound, whatever the secrets are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

MASK = b"***"
# Shorter ones are in every other word.
LEAST_BYTES = 4
PIECE_BYTES = 16


def pieces_of(values: Iterable[str]) -> frozenset[bytes]:
    """What is looked for. The last piece of a line begins in the one before it."""
    found: set[bytes] = set()
    for value in values:
        for line in value.splitlines():
            found.update(_pieces(line.strip().encode("utf-8", "surrogateescape")))
    return frozenset(piece for piece in found if len(piece) >= LEAST_BYTES)


def _pieces(line: bytes) -> Iterator[bytes]:
    for begin in range(0, len(line) - PIECE_BYTES + 1, PIECE_BYTES):
        yield line[begin : begin + PIECE_BYTES]
    yield line[-PIECE_BYTES:]


def masked_text(text: str, values: Iterable[str]) -> str:
    """A text that is whole, such as a reason."""
    parts: list[bytes] = []
    mask = OutputMask(values, parts.append)
    mask.feed(text.encode("utf-8", "surrogateescape"))
    mask.close()
    return b"".join(parts).decode("utf-8", "replace")


class OutputMask:
    """Passes output on to `write`, as it comes and masked. A few bytes that may be the beginning of a value
    wait for those that follow. However the output is cut, what is written is the same."""

    def __init__(self, values: Iterable[str], write: Callable[[bytes], None]) -> None:
        self._pieces = pieces_of(values)
        self._lengths = sorted({len(piece) for piece in self._pieces}, reverse=True)
        self._beginnings = {piece[:count] for piece in self._pieces for count in range(1, len(piece))}
        first = b"".join(re.escape(byte) for byte in sorted({piece[:1] for piece in self._pieces}))
        self._first = re.compile(b"[" + first + b"]") if first else None
        self._write = write
        self._held = b""
        # So many bytes of what is held are masked already; negative where no mask is right before it.
        self._masked = -1

    def feed(self, data: bytes) -> None:
        if self._first is None:
            self._write(data)
            return
        whole = self._held + data
        self._pass_on(whole, len(whole) - self._open_end(whole))

    def close(self) -> None:
        """Nothing more comes. The beginning of a value at the very end is masked where it says something."""
        rest, self._held = self._held, b""
        if len(rest) < LEAST_BYTES:
            self._pass_on(rest, len(rest))
        elif self._masked < 0:
            self._write(MASK)

    def _pass_on(self, whole: bytes, until: int) -> None:
        """Write what is before `until`: whatever begins there is there as a whole."""
        out: list[bytes] = []
        at, after_mask = max(0, self._masked), self._masked >= 0
        for begin, end in self._found(whole, until):
            if begin > at or not after_mask:
                out += [whole[at:begin], MASK]
            at, after_mask = max(at, end), True
        out.append(whole[at:until])
        self._held = whole[until:]
        self._masked = at - until if after_mask and at >= until else -1
        if written := b"".join(out):
            self._write(written)

    def _found(self, whole: bytes, until: int) -> Iterator[tuple[int, int]]:
        """Where pieces begin and end, of those that begin before `until`; the longest at each place."""
        if self._first is None:
            return
        for match in self._first.finditer(whole, 0, until):
            begin = match.start()
            for length in self._lengths:
                piece = whole[begin : begin + length]
                if piece in self._pieces:
                    yield begin, begin + len(piece)
                    break

    def _open_end(self, whole: bytes) -> int:
        """How many bytes at the end may be the beginning of a piece."""
        most = min(PIECE_BYTES - 1, len(whole))
        return next((count for count in range(most, 0, -1) if whole[-count:] in self._beginnings), 0)
