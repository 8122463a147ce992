"""The compiled protocol is the wire contract, and what we added keeps out of its way."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor

from nodepool.protocol import nodepool_pb2
from tests.architecture.wire_contract import MESSAGES, SERVICES

FILE = nodepool_pb2.DESCRIPTOR
FIRST_NUMBER_OF_OURS = 100
LETTERS = {
    FieldDescriptor.TYPE_STRING: "s",
    FieldDescriptor.TYPE_INT32: "i",
    FieldDescriptor.TYPE_INT64: "l",
    FieldDescriptor.TYPE_BYTES: "y",
    FieldDescriptor.TYPE_BOOL: "b",
    FieldDescriptor.TYPE_DOUBLE: "d",
}


def written(field: FieldDescriptor) -> str:
    kind = field.message_type.name if field.message_type else LETTERS.get(field.type, f"type {field.type}")
    return f"{field.name} {field.number} {'*' if field.is_repeated else ''}{kind}"


def is_streaming(method: MethodDescriptor) -> bool:
    return method.client_streaming or method.server_streaming


def test_the_package_is_nodepool() -> None:
    assert FILE.package == "nodepool"


def test_there_are_the_four_services_of_the_contract_and_the_operators() -> None:
    assert set(FILE.services_by_name) == {*SERVICES, "AdminService"}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_every_method_of_the_contract(service: str) -> None:
    methods = FILE.services_by_name[service].methods_by_name
    found = {
        name: (methods[name].input_type.name, methods[name].output_type.name)
        for name in SERVICES[service]
        if name in methods and not is_streaming(methods[name])
    }
    assert found == SERVICES[service]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_has_every_field_of_the_contract_and_ours_from_100(message: str) -> None:
    fields = FILE.message_types_by_name[message].fields
    theirs = ", ".join(written(field) for field in fields if field.number < FIRST_NUMBER_OF_OURS)
    assert theirs == MESSAGES[message]


def test_every_message_that_the_contract_names_is_in_it() -> None:
    named = {name for methods in SERVICES.values() for pair in methods.values() for name in pair}
    assert named | {"WorkerNodeInfo", "TaskStatus"} == set(MESSAGES)


@pytest.mark.parametrize("service", SERVICES)
def test_our_own_methods_take_messages_of_their_own(service: str) -> None:
    for method in FILE.services_by_name[service].methods:
        if method.name not in SERVICES[service]:
            assert method.input_type.name not in MESSAGES, method.full_name
