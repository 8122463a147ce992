"""What a message must look like before it is parsed: what carries a package has little around it. Pure.

Parsed, the elements of a repeated field take ten times the bytes that they have on the wire, and looking at
each takes longer still. So a message is walked by hand first, field by field, and no further than a bound.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from nodepool.domain.errors import InvalidInputError

# Below it a message is parsed as it is.
UNLOOKED_BYTES = 4 << 10
MOST_AROUND_BYTES = 64 << 10
# What a field costs, however short it is.
_LEAST_BYTES = 16
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10


def check_shape(raw: bytes, kind: Any, texts: frozenset[str]) -> None:
    """Raises InvalidInputError where more than 64 KiB is around its bytes, and the texts of these names.

    `kind` is the message's descriptor, whose class differs between protobuf's implementations.
    """
    if len(raw) > UNLOOKED_BYTES:
        _walk(raw, 0, len(raw), kind, texts, MOST_AROUND_BYTES)


def _walk(raw: bytes, at: int, end: int, kind: Any, texts: frozenset[str], left: int) -> int:
    """What is left of the bound."""
    while at < end:
        begin = at
        tag, at = _number(raw, at, end)
        field, wire_type = kind.fields_by_number.get(tag >> 3), tag & 7
        inside = 0
        if wire_type == _VARINT:
            _, at = _number(raw, at, end)
        elif wire_type in (_FIXED64, _FIXED32):
            at += 8 if wire_type == _FIXED64 else 4
        elif wire_type == _LENGTH:
            size, at = _number(raw, at, end)
            if size > end - at:
                raise _unreadable()
            inside = _inside(field, size, texts)
            if field is not None and inside and field.type == FieldDescriptor.TYPE_MESSAGE:
                left = _walk(raw, at, at + size, field.message_type, texts, left)
            at += size
        else:
            raise _unreadable()
        left -= max(_LEAST_BYTES, at - begin - inside)
        if left < 0:
            raise InvalidInputError(
                f"the message has more than {MOST_AROUND_BYTES >> 10} KiB besides what it carries: "
                "give fewer and shorter values"
            )
    return left


def _inside(field: Any, size: int, texts: frozenset[str]) -> int:
    """How much of a field's value is not around anything: what is carried, or is walked by itself."""
    if field is None or field.is_repeated:
        return 0
    carries = field.type in (FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_MESSAGE)
    return size if carries or field.full_name in texts else 0


def _number(raw: bytes, at: int, end: int) -> tuple[int, int]:
    """A varint, and where what follows it begins."""
    value = 0
    for count in range(_LONGEST_VARINT):
        if at + count >= end:
            break
        byte = raw[at + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, at + count + 1
    raise _unreadable()


def _unreadable() -> InvalidInputError:
    return InvalidInputError("the message cannot be read: it is not what this call takes")
