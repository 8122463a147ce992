"""A pool whose every word is an attack on whoever reads it: messages filled by reflection, without gaps."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from nodepool.domain.safe_text import UNSEEN

# Colours, a title, a cursor, a clipboard, other directions, blanks of no width, markup, and a second line.
HOSTILE = (
    "al\u200bi\u202ece\x1b[31m\x1b]0;owned\x07\x1b]52;c;eA==\x07[red]x[/red]\r\n:smile:\x9b2J\u2066\u3164\u2028z"
    + "\u0301" * 8
)
# What is left of it to be seen, whatever the columns: brackets are not markup, and words no pictures.
SEEN = "[red]x[/red]"
# Words that a client must know, or it stops at the first of them.
_KNOWN = {("TaskDetail", "state"): "SUCCEEDED", ("ExplainTaskResponse", "state"): "QUEUED"}
_REPEATED = 2
_WHOLE_NUMBERS = frozenset(
    {
        FieldDescriptor.CPPTYPE_INT32,
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT32,
        FieldDescriptor.CPPTYPE_UINT64,
    }
)


def filled(message: type[Message], **told: Any) -> Any:
    """A message in which every field is set, every text to the worst; `told` is taken as it is."""
    made = message()
    for field in made.DESCRIPTOR.fields:
        if field.name in told or (field.containing_oneof and made.WhichOneof(field.containing_oneof.name)):
            continue
        if field.is_repeated:
            values = getattr(made, field.name)
            if field.message_type and field.message_type.GetOptions().map_entry:
                values[HOSTILE] = _scalar(field.message_type.fields_by_name["value"])
            elif field.message_type:
                values.extend(filled(type(values.add())) for _ in range(_REPEATED))
                del values[0:_REPEATED]
            else:
                values.extend([_scalar(field)] * _REPEATED)
        elif field.message_type:
            getattr(made, field.name).CopyFrom(filled(type(getattr(made, field.name))))
        else:
            known = _KNOWN.get((made.DESCRIPTOR.name, field.name))
            setattr(made, field.name, known or _scalar(field))
    for name, value in told.items():
        if isinstance(value, Message):
            getattr(made, name).CopyFrom(value)
        else:
            setattr(made, name, value)
    return made


def _scalar(field: FieldDescriptor) -> Any:
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return HOSTILE.encode() if field.type == FieldDescriptor.TYPE_BYTES else HOSTILE
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return True
    return 1 if field.cpp_type in _WHOLE_NUMBERS else 1.0


def unsafe(text: str) -> list[str]:
    """The characters that a terminal would obey, or an eye would not see."""
    return sorted({c for c in text if c != "\n" and (not c.isprintable() or UNSEEN.match(c))})
