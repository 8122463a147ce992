"""Output as text: pieces at a time, for it is of strangers, may be any bytes, and has millions of lines.

Each step lets go of the interpreter, so these may take their time in a thread. Pure.
"""

from __future__ import annotations

import codecs
import re

_PIECE_BYTES = 64 << 10
# What str.splitlines() takes for the end of a line, in UTF-8: its last byte is searched for, which is quick.
_LINE_END = re.compile(
    rb"[\n\r\x0b\x0c\x1c-\x1e\x85\xa8\xa9]"
    rb"(?:(?<=[\n\x0b\x0c\x1c-\x1e])|(?<=\r)\n?|(?<=\xc2\x85)|(?<=\xe2\x80[\xa8\xa9]))"
)


def text_of(data: bytes) -> str:
    """What is no UTF-8 is shown as such."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces = [decoder.decode(data[at : at + _PIECE_BYTES]) for at in range(0, len(data), _PIECE_BYTES)]
    return "".join((*pieces, decoder.decode(b"", final=True)))


def last_lines(data: bytes, most: int) -> list[str]:
    """The last lines of text_of(data).splitlines(), without the others."""
    found: list[list[str]] = []
    count, end = 0, len(data)
    # The beginning of what was looked at, which belongs to a line that begins before it; last part first.
    rest: list[bytes] = []
    while end and count < most:
        begin = max(0, end - _PIECE_BYTES)
        first = _LINE_END.search(data, begin, end) if begin else None
        # At the very end it may be half of one.
        split = begin if not begin else first.end() if first and first.end() < end else end
        if split < end or not begin:
            whole = b"".join((data[split:end], *reversed(rest)))
            lines = text_of(whole).splitlines()[-most:]
            found.append(lines)
            count += len(lines)
            rest = [data[begin:split]]
        else:
            rest.append(data[begin:end])
        end = begin
    return [line for lines in reversed(found) for line in lines][-most:]
