"""Every RPC has a role in the one table, and the table names no RPC that is not there."""

from __future__ import annotations

from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from gateway.auth.access import REQUIRED, TOKEN_IN_MESSAGE, Access
from nodepool.protocol import nodepool_pb2 as pb


def _methods(*files: object) -> set[str]:
    return {
        f"/{service.full_name}/{method.name}"
        for file in files
        for service in file.DESCRIPTOR.services_by_name.values()  # type: ignore[attr-defined]
        for method in service.methods
    }


def test_every_method_of_every_service_has_a_role() -> None:
    assert _methods(pb) - set(REQUIRED) == set()


def test_the_table_names_only_methods_that_exist() -> None:
    known = _methods(pb, health_pb2, reflection_pb2)
    assert set(REQUIRED) - known == set()


def test_what_needs_no_token_is_known_by_name() -> None:
    ours = {method for method in REQUIRED if method.startswith("/nodepool.")}
    public = {method.rpartition("/")[2] for method in ours if REQUIRED[method] is Access.PUBLIC}
    anonymous = {method.rpartition("/")[2] for method in ours if REQUIRED[method] is Access.ANONYMOUS_READ}
    assert public == {"Login", "Register", "HealthCheck"}
    assert anonymous == {"PollTaskStatus", "GetNodeList"}


def test_the_calls_whose_message_may_carry_the_token_are_known() -> None:
    names = {method.rpartition("/")[2] for method in TOKEN_IN_MESSAGE}
    assert {"Transfer", "GetBalance", "RefreshToken", "GetTaskResult", "GetTaskLogs"} <= names
    assert {"GetAllTasks", "StopTask"} <= names
