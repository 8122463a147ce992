"""Every call of the protocol, and requests for each made from the protocol's own description."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from nodepool.protocol import nodepool_pb2 as pb

Metadata = tuple[tuple[str, str], ...]
METHODS: dict[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method
    for service in pb.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def request_of(method: str, values: Mapping[str, Any]) -> Message:
    """The call's first message with these values wherever a field has the name, also within."""
    return _filled(GetMessageClass(METHODS[method].input_type)(), values)


def _filled(message: Message, values: Mapping[str, Any]) -> Message:
    for field in message.DESCRIPTOR.fields:
        if field.type == FieldDescriptor.TYPE_MESSAGE and not field.is_repeated:
            part = _filled(GetMessageClass(field.message_type)(), values)
            # Of a choice the first that has something in it: the task, the attempt's end.
            if field.containing_oneof and message.WhichOneof(field.containing_oneof.name):
                continue
            if part.ByteSize():
                getattr(message, field.name).CopyFrom(part)
        elif field.name in values:
            if field.containing_oneof and message.WhichOneof(field.containing_oneof.name):
                continue
            setattr(message, field.name, values[field.name])
    return message


def variants(message: Message, odd: Mapping[int, list[Any]]) -> Iterator[tuple[str, Any, Message]]:
    """The message with one field after the other made odd, by its type; with its full name and value."""
    for field in message.DESCRIPTOR.fields:
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            if field.is_repeated or not message.HasField(field.name):
                continue
            for name, value, part in variants(getattr(message, field.name), odd):
                changed = type(message)()
                changed.CopyFrom(message)
                getattr(changed, field.name).CopyFrom(part)
                yield name, value, changed
            continue
        for value in odd.get(field.type, ()):
            changed = type(message)()
            changed.CopyFrom(message)
            if field.is_repeated:
                getattr(changed, field.name).append(value)
            else:
                setattr(changed, field.name, value)
            yield field.full_name, value, changed


def call(
    channel: grpc.Channel, method: str, *messages: bytes, metadata: Metadata = (), seconds: float = 20.0
) -> tuple[grpc.StatusCode, str]:
    """The status and message of a call of these raw messages; of an answer its bytes as text."""
    described = METHODS[method]
    kind = (described.client_streaming, described.server_streaming)
    make = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }[kind]
    sent: Any = iter(messages) if described.client_streaming else messages[0]
    try:
        answer: Any = make(method)(sent, metadata=metadata, timeout=seconds)
        if described.server_streaming:
            first = next(answer, b"")
            answer.cancel()
            return grpc.StatusCode.OK, repr(first)
        return grpc.StatusCode.OK, repr(answer)
    except grpc.RpcError as error:
        assert isinstance(error, grpc.Call)  # noqa: PT017
        return error.code(), error.details() or ""
