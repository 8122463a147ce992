"""Live output in a real Valkey: addressed by offset, told twice without harm, never more than its window."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from nodepool.stores.redis import keys
from nodepool.stores.redis.output import OutputStore, OutputWindow
from tests.support.key_leaks import keys_without_a_ttl
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until

WINDOW_BYTES = 1000
ATTEMPT = "task:with:colons:1"


@pytest.fixture
def client(valkey: TestValkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.url) as opened:
        yield opened


@pytest.fixture
def outputs(client: redis.Redis) -> OutputStore:
    return OutputStore(client, WINDOW_BYTES)


def test_what_follows_is_added(outputs: OutputStore) -> None:
    assert outputs.append(ATTEMPT, 0, b"one ") == 4
    assert outputs.append(ATTEMPT, 4, b"two\xff\x00") == 9
    assert outputs.window(ATTEMPT) == OutputWindow(0, b"one two\xff\x00")


def test_nothing_was_said_yet(outputs: OutputStore) -> None:
    assert outputs.window(ATTEMPT) == OutputWindow(0, b"")
    assert outputs.append(ATTEMPT, 0, b"") == 0


def test_what_overlaps_is_kept_once(outputs: OutputStore) -> None:
    outputs.append(ATTEMPT, 0, b"abcdef")
    assert outputs.append(ATTEMPT, 0, b"abcdef") == 6
    assert outputs.append(ATTEMPT, 2, b"cd") == 6
    assert outputs.append(ATTEMPT, 4, b"efgh") == 8
    assert outputs.window(ATTEMPT) == OutputWindow(0, b"abcdefgh")


def test_a_hole_moves_the_window_past_it(outputs: OutputStore) -> None:
    outputs.append(ATTEMPT, 0, b"lost soon")
    assert outputs.append(ATTEMPT, 100, b"after") == 105
    assert outputs.window(ATTEMPT) == OutputWindow(100, b"after")


def test_the_first_words_may_begin_anywhere(outputs: OutputStore) -> None:
    assert outputs.append(ATTEMPT, 50, b"late") == 54
    assert outputs.window(ATTEMPT) == OutputWindow(50, b"late")


def test_the_window_forgets_its_beginning_and_keeps_its_offsets(outputs: OutputStore) -> None:
    said = bytes(number % 251 for number in range(20 * 300))
    for start in range(0, len(said), 300):
        assert outputs.append(ATTEMPT, start, said[start : start + 300]) == start + 300
        window = outputs.window(ATTEMPT)
        assert len(window.data) <= WINDOW_BYTES
        assert window.end == start + 300
        assert window.data == said[window.base : window.end]


def test_one_piece_larger_than_the_window_leaves_its_end(outputs: OutputStore) -> None:
    said = bytes(number % 251 for number in range(10 * WINDOW_BYTES))
    assert outputs.append(ATTEMPT, 0, said) == len(said)
    window = outputs.window(ATTEMPT)
    assert len(window.data) <= WINDOW_BYTES
    assert said.endswith(window.data)
    assert window.end == len(said)


def test_the_largest_offset_is_counted_exactly(outputs: OutputStore) -> None:
    from gateway.usecases.agent_attempts import MAX_OUTPUT_OFFSET

    assert outputs.append(ATTEMPT, MAX_OUTPUT_OFFSET, b"end") == MAX_OUTPUT_OFFSET + 3
    assert outputs.window(ATTEMPT) == OutputWindow(MAX_OUTPUT_OFFSET, b"end")


def test_output_goes_away_by_itself(outputs: OutputStore, client: redis.Redis, valkey: TestValkey) -> None:
    outputs.append(ATTEMPT, 0, b"x", task_id="task:with:colons")
    assert keys_without_a_ttl(valkey.admin) == []
    assert 0 < client.ttl(keys.output(ATTEMPT)) <= keys.OUTPUT_TTL_SECONDS
    outputs.forget(ATTEMPT)
    assert outputs.window(ATTEMPT) == OutputWindow(0, b"")


def test_watchers_are_told_the_task(outputs: OutputStore, client: redis.Redis) -> None:
    with client.pubsub(ignore_subscribe_messages=True) as subscription:  # type: ignore[no-untyped-call]
        subscription.subscribe(keys.EVENTS_CHANNEL)
        wait_until(
            lambda: subscription.get_message(timeout=0) is None and subscription.subscribed, "it listens"
        )
        wait_until(
            lambda: client.pubsub_numsub(keys.EVENTS_CHANNEL)[0][1] == 1, "the server knows the listener"
        )
        outputs.append(ATTEMPT, 0, b"x", task_id="task:with:colons")
        outputs.append(ATTEMPT, 0, b"x", task_id="task:with:colons")  # nothing new, nobody told
        outputs.announce("task")

        heard: list[bytes] = []

        def collect() -> bool:
            message = subscription.get_message(timeout=0.1)
            if message:
                heard.append(message["data"])
            return b"task" in heard

        wait_until(collect, "both were heard")
        assert heard == [b"task:with:colons", b"task"]
