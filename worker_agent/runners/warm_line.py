"""What is said over the line to a sandbox that is kept warm, as bytes. Pure: no I/O.

The other side is `worker_agent.runners.warm_init`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from worker_agent.runners import warm_clean, warm_init

RUN, END, CLEAN = b"R", b"T", b"C"
HELLO, OUTPUT, ENDED, CLEANED = b"H", b"O", b"E", b"C"
_HEADER_BYTES, _SIZE_BYTES = 5, 4
_MAX_FRAME_BYTES = 1 << 16
_LENGTH_DIGITS = 8
# Reads the program from its stdin: it would be in the command line of every task otherwise.
BOOT = f"""\
import os
def r(n):
 t=b''
 while len(t)<n:t=t+(os.read(0,n-len(t))or os._exit(0))
 return t
exec(r(int(r({_LENGTH_DIGITS}))))"""
# What the sandbox's Python knows before it has imported anything of its own.
_BEGINNING = """\
import sys
_at_start = set(sys.modules) - {"__future__"}
sys.path[:] = [path for path in sys.path if path]  # what lies in a task's folder is no part of this
import os
_base = dict(os.environ)
"""
_IMPORT = re.compile(r"^from worker_agent.*\n", re.MULTILINE)
_DECLARED = re.compile(r"^(_at_start|_base): .*\n", re.MULTILINE)
_FUTURE = "from __future__ import annotations\n"


class LineError(Exception):
    """Something came that the other side does not say."""


@cache
def program() -> bytes:
    """What BOOT reads: both texts as one."""
    parts = [Path(str(module.__file__)).read_text(encoding="utf-8") for module in (warm_clean, warm_init)]
    whole = _FUTURE + _BEGINNING + _DECLARED.sub("", _IMPORT.sub("", "".join(parts).replace(_FUTURE, "")))
    text = whole.encode()
    return str(len(text)).zfill(_LENGTH_DIGITS).encode() + text


def job(command: Sequence[str], environment: Mapping[str, str], script_words: int) -> bytes:
    """`script_words`: how many of the command's last words a script of Python would get, with its own name;
    0 where it is no script of Python."""
    words = [*command, *(f"{name}={value}" for name, value in environment.items())]
    head = f"{len(command)} {len(environment)} {script_words}\n"
    text = head.encode() + "\0".join(words).encode("utf-8", "surrogateescape")
    return RUN + len(text).to_bytes(_SIZE_BYTES, "big") + text


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """How a task ended, as the sandbox's first process saw it."""

    exit_code: int  # 128 + S: ended by signal S
    cpu_seconds: float
    largest_bytes: int  # of its processes
    memory_kills: int

    @classmethod
    def of(cls, told: bytes) -> TaskEnd:
        """Raises LineError."""
        try:
            code, microseconds, kibibytes, kills = (int(number) for number in told.split())
        except ValueError as error:
            raise LineError("the end of a task cannot be read") from error
        return cls(code, microseconds / 1e6, kibibytes << 10, kills)


class Frames:
    """Takes the stream of what is told apart; frames may be cut anywhere."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Raises LineError."""
        self._data += data
        while len(self._data) >= _HEADER_BYTES:
            size = int.from_bytes(self._data[1:_HEADER_BYTES], "big")
            kind = bytes(self._data[:1])
            if size > _MAX_FRAME_BYTES or kind not in (HELLO, OUTPUT, ENDED, CLEANED):
                raise LineError("something came that no sandbox says")
            if len(self._data) < _HEADER_BYTES + size:
                return
            payload = bytes(self._data[_HEADER_BYTES : _HEADER_BYTES + size])
            del self._data[: _HEADER_BYTES + size]
            yield kind, payload
