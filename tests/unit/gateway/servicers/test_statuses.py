"""Which status an error of the pool becomes, and that nothing of the inside is told."""

from __future__ import annotations

import grpc
import pytest
import redis

from gateway.servicers.statuses import STATUS_OF_ERROR, status_of
from nodepool import observability
from nodepool.domain import errors

# These are faults of the pool itself.
INTERNAL = {errors.NodePoolError, errors.InvalidTransitionError}
KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.NodePoolError) and kind not in INTERNAL
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_for_users_has_a_status_and_keeps_its_message(kind: type[errors.NodePoolError]) -> None:
    code, message = status_of(kind("what went wrong"))
    assert code is not grpc.StatusCode.INTERNAL
    assert message == "what went wrong"


def test_a_kind_of_an_error_has_the_status_of_its_parent() -> None:
    assert errors.InvalidPackageError not in STATUS_OF_ERROR
    assert status_of(errors.InvalidPackageError("no ZIP")) == (grpc.StatusCode.INVALID_ARGUMENT, "no ZIP")


@pytest.mark.parametrize(
    "error",
    [
        redis.ConnectionError("secret-host:6379"),
        redis.TimeoutError("secret-host:6379"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_part_that_is_away_is_unavailable(error: Exception) -> None:
    code, message = status_of(error)
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "secret-host" not in message


@pytest.mark.parametrize("error", [RuntimeError("inside"), errors.InvalidTransitionError("inside")])
def test_a_fault_of_the_pool_tells_a_request_id_and_nothing_else(error: Exception) -> None:
    before = observability.request_id.set("r1")
    try:
        code, message = status_of(error)
    finally:
        observability.request_id.reset(before)
    assert code is grpc.StatusCode.INTERNAL
    assert "inside" not in message
    assert message.endswith("request r1")
