"""Workers of a later generation are known by their reports, and only a new registration makes them fit."""

from __future__ import annotations

import pytest

from nodepool.domain.nodes.generation import NO_WORK_WORDS, Generation, after_report, when_registered
from nodepool.domain.nodes.node import NodeKind
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.wire import unknown_fields

OURS, UNTOLD, LATER = Generation.OURS, Generation.UNTOLD, Generation.LATER


def test_a_node_that_is_called_is_known_by_its_first_report_and_an_agent_at_once() -> None:
    assert when_registered(NodeKind.PUSHED) is UNTOLD
    assert when_registered(NodeKind.AGENT) is OURS
    assert set(NO_WORK_WORDS) == set(Generation)
    assert [bool(NO_WORK_WORDS[it]) for it in (OURS, UNTOLD, LATER)] == [False, True, True]


@pytest.mark.parametrize(
    ("before", "fields", "after"),
    [
        (UNTOLD, set(), OURS),
        (OURS, set(), OURS),
        *((before, {field}, LATER) for before in (UNTOLD, OURS) for field in range(3, 9)),
        # What this protocol adds has numbers from 100 up, and later versions of it may add more.
        (UNTOLD, {100, 250}, OURS),
        (UNTOLD, {9, 99}, OURS),
        # All of its fields may happen to be empty: it is what it was.
        (LATER, set(), LATER),
    ],
)
def test_what_a_report_shows(before: Generation, fields: set[int], after: Generation) -> None:
    assert after_report(before, fields) is after


def test_fields_that_this_protocol_does_not_have_are_seen() -> None:
    # node_id, and then a varint as 3, a float as 4, a text as 8 and one more as 300.
    raw = b"\x0a\x01n" + b"\x18\x05" + b"\x25\x00\x00\x80\x3f" + b"\x42\x01x" + b"\xe0\x12\x01"
    assert unknown_fields(pb.ReportStatusRequest.FromString(raw)) == {3, 4, 8, 300}
    assert unknown_fields(pb.ReportStatusRequest(node_id="n", status_message="Idle")) == frozenset()
