"""Messages that have more around what they carry than any honest one."""

from __future__ import annotations

import pytest

from gateway.admission.message_limits import ANY_TEXT, parsed
from gateway.admission.message_shapes import MOST_AROUND_BYTES, check_shape
from nodepool.domain.errors import InvalidInputError
from nodepool.protocol import nodepool_pb2 as pb

MIB = 1 << 20


def _big(**more: object) -> bytes:
    return pb.UploadTaskRequest(task_id="t", task_zip=bytes(2 * MIB), **more).SerializeToString()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "message",
    [
        pb.UploadTaskRequest(task_zip=bytes(2 * MIB), compare_outputs=["out/*.csv"] * 32),
        pb.UploadTaskStreamRequest(zip_chunk=bytes(2 * MIB)),
        pb.FinishAttemptRequest(end=pb.AttemptEnd(output_tail=bytes(MIB), reason="r" * 100_000)),
        pb.StoreOutputRequest(task_id="t", output="\0" * MIB),
        pb.UploadTaskRequest(task_id="x" * 5000),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_honest_clients_send_is_taken(message: pb.UploadTaskRequest) -> None:
    raw = message.SerializeToString()
    assert parsed(raw, type(message).FromString) == message
    check_shape(raw + b"\x9a\x3f\x02hi", message.DESCRIPTOR, ANY_TEXT)  # a field of a version to come


EMPTY = b"\xda\x06\x00"  # compare_outputs, once more
NESTED = pb.UploadTaskStreamRequest(task=pb.UploadTaskRequest.FromString(EMPTY * 100_000)).SerializeToString()


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        pytest.param(EMPTY * MIB, pb.UploadTaskRequest, id="millions of elements"),
        pytest.param(b"\x9a\x3f\x00" * MIB, pb.UploadTaskRequest, id="millions of unknown fields"),
        pytest.param(b"\x50\x01" * MIB, pb.UploadTaskRequest, id="millions of numbers"),
        pytest.param(NESTED, pb.UploadTaskStreamRequest, id="in a message in it"),
        pytest.param(
            pb.UploadTaskRequest(location="\U0001f600" + "x" * 2 * MIB).SerializeToString(),
            pb.UploadTaskRequest,
            id="a name without end",
        ),
        pytest.param(pb.UploadTaskStreamRequest(zip_chunk=b"").SerializeToString() * MIB,
                     pb.UploadTaskStreamRequest, id="the same field again and again"),
    ],
)  # fmt: skip
def test_what_would_take_many_times_its_size_is_refused_before_it_is_parsed(
    raw: bytes, kind: type[pb.UploadTaskRequest]
) -> None:
    with pytest.raises(InvalidInputError, match=f"{MOST_AROUND_BYTES >> 10} KiB"):
        parsed(raw, kind.FromString)


@pytest.mark.parametrize("cut", [1, 3, 4, 2 * MIB - 1])
def test_what_is_cut_short_is_no_message(cut: int) -> None:
    with pytest.raises(InvalidInputError):
        parsed(_big()[:-cut], pb.UploadTaskRequest.FromString)


@pytest.mark.parametrize(
    "begin", [b"\x0b", b"\x0f", b"\xff" * 11, b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"]
)
def test_what_is_no_field_is_no_message(begin: bytes) -> None:
    with pytest.raises(InvalidInputError):
        parsed(begin + bytes(5000), pb.UploadTaskRequest.FromString)


def test_a_nul_in_a_map_is_found_and_other_zeros_are_none() -> None:
    task = pb.UploadTaskRequest(task_id="t", environment={"A": "1"}, labels={"k": ""}, task_zip=b"\0")
    assert parsed(task.SerializeToString(), pb.UploadTaskRequest.FromString) == task
    for changed in ({"environment": {"A": "\0"}}, {"labels": {"\0": ""}}):
        wrong = pb.UploadTaskRequest(task_id="t", **changed)  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match=f"{next(iter(changed))} must not hold a NUL"):
            parsed(wrong.SerializeToString(), pb.UploadTaskRequest.FromString)
