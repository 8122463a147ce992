"""A task's output on this terminal: it may be shown, not obeyed.

It is the user's own program that speaks, so its colours pass; but it was run by a stranger, so sequences
that would move the cursor, set titles, write to the clipboard or ask the terminal to answer do not, nor
do marks that turn the order of letters around. Pure: bytes in, bytes out. A file or a pipe gets the bytes
as they are, and does not come here. What others say of a task is `plain_text.py`'s.
"""

from __future__ import annotations

import re

from hivemind.cli.render.plain_text import one_line

__all__ = ["OutputFilter", "one_line"]

_COLOUR = re.compile(rb"\x1b\[[0-9;:]*m")
# An escape sequence: CSI, a string up to its end (OSC, DCS, PM, APC, SOS), or a short one.
_SEQUENCE = re.compile(
    rb"\x1b\[[0-?]*[ -/]*[@-~]"
    rb"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"
    rb"|\x1b(?:[ -/]+[0-~]|[0-OQ-WYZ\\`-~])"
)
_UNFINISHED = re.compile(
    rb"(?:\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)?|\xc2|\xe2[\x80\x81]?)\Z"
)
# The second kind is the C1 controls in UTF-8: one of them opens a sequence as ESC [ does. The third are
# U+202A-202E and U+2066-2069, embeddings, overrides and isolates of another direction of writing.
_CONTROL = re.compile(
    rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xaa-\xae]|\xe2\x81[\xa6-\xa9]"
)
_PLAIN = re.compile(rb"\x1b\[[0;:]*m")
_MAX_PENDING_BYTES = 4096


class OutputFilter:
    """A task's output for a terminal; keeps a sequence that is cut by a chunk's end for the next one."""

    def __init__(self) -> None:
        self._pending = b""
        self._coloured = False

    def plain(self) -> bytes:
        """What takes back the colours that are on, before somebody else says something."""
        if not self._coloured:
            return b""
        self._coloured = False
        return b"\x1b[0m"

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
                self._coloured = not _PLAIN.fullmatch(match[0])
            position = match.end()
        parts.append(_CONTROL.sub(b"", data[position:]))
        return parts
