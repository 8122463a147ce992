"""Message classes as others have compiled them from the wire contract: nothing of our generated code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "s": _FIELD.TYPE_STRING, "i": _FIELD.TYPE_INT32, "l": _FIELD.TYPE_INT64, "y": _FIELD.TYPE_BYTES,
    "b": _FIELD.TYPE_BOOL, "d": _FIELD.TYPE_DOUBLE,
}  # fmt: skip


def contract(messages: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """The message classes of a client that was built from the contract alone."""
    file = descriptor_pb2.FileDescriptorProto(name="theirs.proto", package="nodepool", syntax="proto3")
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field_name, text in fields.items():
            number, kind = text.split()
            label = _FIELD.LABEL_REPEATED if kind.startswith("*") else _FIELD.LABEL_OPTIONAL
            field = message.field.add(name=field_name, number=int(number), label=label)
            if kind.lstrip("*") in _TYPES:
                field.type = _TYPES[kind.lstrip("*")]
            else:
                field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".nodepool.{kind.lstrip('*')}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"nodepool.{name}"))
        for name in messages
    }
