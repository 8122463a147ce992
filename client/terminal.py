"""Other people's text on this terminal: what a task or a pool says may be shown, not obeyed.

Colours of a task's output pass; sequences that would move the cursor, set titles, write to the
clipboard or ask the terminal to answer do not. Pure: bytes in, bytes out.
"""

from __future__ import annotations

import re

_COLOUR = re.compile(rb"\x1b\[[0-9;:]*m")
# An escape sequence: CSI, a string up to its end (OSC, DCS, PM, APC, SOS), or a short one.
_SEQUENCE = re.compile(
    rb"\x1b\[[0-?]*[ -/]*[@-~]"
    rb"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"
    rb"|\x1b(?:[ -/]+[0-~]|[0-OQ-WYZ\\`-~])"
)
_UNFINISHED = re.compile(rb"(?:\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)?|\xc2)\Z")
# The second kind is the C1 controls in UTF-8: one of them opens a sequence as ESC [ does.
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]")
_MAX_PENDING_BYTES = 4096


def one_line(text: str) -> str:
    """Text from elsewhere, on one line and without control characters."""
    return "".join(c if c.isprintable() else " " for c in text).strip()


class OutputFilter:
    """A task's output for a terminal; keeps a sequence that is cut by a chunk's end for the next one."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> bytes:
        data = self._pending + data
        self._pending = b""
        cut = _UNFINISHED.search(_SEQUENCE.sub(lambda match: b"." * len(match[0]), data))
        if cut is not None and len(data) - cut.start() <= _MAX_PENDING_BYTES:
            self._pending, data = data[cut.start() :], data[: cut.start()]
        return b"".join(self._safe(data))

    def _safe(self, data: bytes) -> list[bytes]:
        parts = []
        position = 0
        for match in _SEQUENCE.finditer(data):
            parts.append(_CONTROL.sub(b"", data[position : match.start()]))
            if _COLOUR.fullmatch(match[0]):
                parts.append(match[0])
            position = match.end()
        parts.append(_CONTROL.sub(b"", data[position:]))
        return parts
