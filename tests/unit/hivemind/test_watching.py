"""Where a watcher is: each byte once, in order, whatever the stream repeats."""

from __future__ import annotations

from hypothesis import given, strategies as st

from hivemind.models import OutputEvent, StateEvent
from hivemind.watching import Position
from nodepool.protocol import nodepool_pb2 as pb


def output(attempt: int, offset: int, data: bytes) -> pb.WatchTaskResponse:
    return pb.WatchTaskResponse(
        output=pb.OutputChunk(
            attempt_number=attempt, offset=offset, data=data, next_offset=offset + len(data)
        )
    )


def state(word: str) -> pb.WatchTaskResponse:
    return pb.WatchTaskResponse(state=pb.TaskDetail(state=word))


def test_a_repeated_state_is_told_once() -> None:
    position = Position()
    assert isinstance(position.take("t", state("QUEUED")), StateEvent)
    assert position.take("t", state("QUEUED")) is None
    assert isinstance(position.take("t", state("RUNNING")), StateEvent)


def test_bytes_that_were_seen_are_cut_off() -> None:
    position = Position()
    position.take("t", output(1, 0, b"hello"))
    assert position.take("t", output(1, 0, b"hello")) is None
    assert position.take("t", output(1, 3, b"lo world")) == OutputEvent(
        attempt_number=1, offset=5, data=b" world"
    )


def test_output_of_an_attempt_that_was_lost_is_dropped_once_another_spoke() -> None:
    position = Position()
    position.take("t", output(1, 0, b"lost"))
    assert position.take("t", output(2, 0, b"new")) == OutputEvent(attempt_number=2, offset=0, data=b"new")
    assert position.take("t", output(1, 4, b"late")) is None
    assert (position.attempt_number, position.offset) == (2, 3)


def test_a_gap_is_told() -> None:
    position = Position()
    event = position.take("t", output(1, 100, b"tail"))
    assert event == OutputEvent(attempt_number=1, offset=100, data=b"tail", skipped_bytes=100)


def test_an_event_of_a_later_version_is_passed_over() -> None:
    assert Position().take("t", pb.WatchTaskResponse()) is None


@given(
    text=st.binary(max_size=60), cuts=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=30)
)
def test_any_overlapping_repeats_add_up_to_the_text(text: bytes, cuts: list[tuple[int, int]]) -> None:
    position = Position()
    seen = b""
    for wished, length in [*cuts, (0, len(text))]:
        begin = min(wished, position.offset)  # a server repeats, but leaves nothing out
        event = position.take("t", output(1, begin, text[begin : begin + length]))
        if isinstance(event, OutputEvent):
            assert event.offset == len(seen)
            assert event.skipped_bytes == 0
            seen += event.data
    assert seen == text
