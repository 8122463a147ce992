from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from nodepool.domain import bounded_json
from nodepool.domain.nodes.worker_events import MAX_TEXT_CHARACTERS, DropReason, parse_message
from tests.support import bad_events
from tests.support.bad_events import envelope, heartbeat, received

NODE = "alice/n1"
AGENT = f"agent@{NODE}"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


def one(event: dict[str, Any], agent: str = AGENT) -> dict[str, Any]:
    heard = parse_message(envelope(event), agent, time.time())
    assert heard.dropped == []
    (shown,) = heard.events
    return shown


def test_an_agents_events_are_shown() -> None:
    beat = one(heartbeat(NODE, active=2))
    assert (beat["hostname"], beat["active"], beat["loadavg"]) == (AGENT, 2, [0.1, 0.2, 0.3])
    assert not {"clock", "utcoffset"} & beat.keys()
    task = received(NODE)
    assert one(task)["uuid"] == task["uuid"]
    several = parse_message(envelope([received(NODE), {"type": "x"}, received(NODE)]), AGENT, time.time())
    assert (len(several.events), several.dropped) == (2, [DropReason.SHAPE])


@pytest.mark.parametrize("what", bad_events.hostile(NODE, "bob/n1"))
def test_whatever_is_no_event_of_the_nodes_is_dropped(what: str) -> None:
    reason, message = bad_events.hostile(NODE, "bob/n1")[what]
    heard = parse_message(message, AGENT, time.time())
    if reason == DropReason.UNKNOWN_TASK:  # a question of what was heard before
        assert len(heard.events) == 1
    else:
        assert (heard.events, set(heard.dropped)) == ([], {reason})


def test_what_is_strange_in_a_good_event_is_left_out() -> None:
    for message in bad_events.strange(NODE).values():
        heard = parse_message(message, AGENT, time.time())
        assert heard.dropped == []
        for name, value in heard.events[0].items():
            assert name not in {"heartbeats", "alive", "event", "id", "clock", "parent_id", "worker", "state"}
            assert not isinstance(value, str) or (value.isprintable() and len(value) <= MAX_TEXT_CHARACTERS)
            assert "<" not in str(value)


def test_a_wrong_clock_moves_nothing() -> None:
    now = time.time()
    ahead = parse_message(envelope(heartbeat(NODE, timestamp=now + 600)), AGENT, now)
    assert ahead.events[0]["timestamp"] == ahead.events[0]["local_received"] == now
    near = parse_message(envelope(heartbeat(NODE, timestamp=now - 1.5)), AGENT, now)
    assert near.events[0]["timestamp"] == now - 1.5


def test_the_pools_own_workers_pass_the_same_gate_and_are_no_agents() -> None:
    assert one(heartbeat("x", hostname="dispatcher@pool"), "")["hostname"] == "dispatcher@pool"
    assert one(received("x", hostname="dispatcher@pool", name="dispatcher.place"), "")
    assert parse_message(envelope(heartbeat(NODE)), "", time.time()).dropped == [DropReason.SENDER]


@given(JSON, st.sampled_from(sorted(heartbeat(NODE)) + sorted(received(NODE))))
@settings(max_examples=150, deadline=None)
def test_no_value_of_any_field_gets_past_but_as_what_it_should_be(value: Any, field: str) -> None:
    for event in (heartbeat(NODE), received(NODE)):
        heard = parse_message(
            json.dumps(json.loads(envelope({**event, field: value}))).encode(), AGENT, time.time()
        )
        for shown in heard.events:
            assert shown["hostname"] == AGENT
            for kept in shown.values():
                assert isinstance(kept, str | int | float | list)


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_no_bytes_raise_anything(data: bytes) -> None:
    assert parse_message(data, AGENT, 0.0).events == []


@pytest.mark.parametrize(
    ("text", "deep"),
    [
        ("", 0), ("1", 0), ("[]", 1), ('{"a":[{}]}', 3), ('"[[["', 0), (r'["\"[[", []]', 2),
        ('["\\\\", [[1]]]', 3), ("[[]" * 3, 4), ('"[[[', 3),
    ],
)  # fmt: skip
def test_depth(text: str, deep: int) -> None:
    assert bounded_json.depth(text) == deep


def test_hostile_json_is_told_apart_in_one_pass() -> None:
    for data in (
        b"[" * 60_000,
        b'"' + b'\\"' * 30_000,
        b'{"a":' * 12_000,
        b'"' * 60_001,
        b"\\" * 60_000,
        b"9" * 60_000,
    ):
        with pytest.raises(ValueError, match=r"."):
            bounded_json.loads(data, max_bytes=64 << 10, max_depth=4)
    with pytest.raises(ValueError, match="too large"):
        bounded_json.loads(b"1" * 11, max_bytes=10, max_depth=4)
    with pytest.raises(ValueError, match="no number"):
        bounded_json.loads(b"[NaN]", max_bytes=10, max_depth=4)
