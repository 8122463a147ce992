"""The sweep's rules for nodes without an agent, on a real Valkey and SQLite: every attempt ends."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dispatcher.sweep.pushed_attempts import PushedAttempts
from nodepool.stores.redis import keys
from tests.support.pushed import PushedFleet
from tests.support.tasks import package, unpacked
from tests.support.valkey import TestValkey


class Swept(PushedFleet):
    """Looks at its attempts as the sweep does."""

    watch: PushedAttempts

    def look(self, after: float = 0.0, *, back_at: float = 0.0) -> None:
        self.now += after
        self.watch.look(back_at)

    def state(self, attempt_id: str) -> tuple[str, str]:
        return self.attempt(attempt_id).state, self.task(attempt_id).state


@pytest.fixture
def fleet(valkey: TestValkey, tmp_path: Path) -> Iterator[Swept]:
    fleet = Swept(valkey, tmp_path)
    fleet.watch = PushedAttempts(fleet.dispatcher)
    yield fleet
    fleet.close()


def test_a_push_whose_hint_was_lost_is_told_again_but_not_too_often(fleet: Swept) -> None:
    attempt = fleet.assigned(fleet.node())
    fleet.look(after=1)
    assert fleet.hints() == 0
    fleet.look(after=5)
    fleet.look(after=1)
    assert fleet.hints() == 1
    fleet.look(after=5)
    assert fleet.hints() == 2
    assert fleet.state(attempt) == ("assigned", "PLACED")


def test_an_attempt_that_nobody_gets_to_send_is_lost_without_blame(fleet: Swept) -> None:
    attempt = fleet.assigned(fleet.node())
    for _ in range(5):
        fleet.look(after=11)
    assert fleet.state(attempt) == ("assigned", "PLACED")
    fleet.look(after=11)
    assert fleet.state(attempt) == ("lost", "QUEUED")
    assert fleet.task(attempt).attempts_ended == 0


def test_an_attempt_whose_caller_died_before_the_answer_is_lost(fleet: Swept) -> None:
    attempt = fleet.assigned(fleet.node())
    fleet.sent(attempt)
    fleet.look(after=19)
    assert fleet.state(attempt) == ("assigned", "PLACED")
    assert fleet.hints() == 0
    fleet.look(after=2)
    assert fleet.state(attempt) == ("lost", "QUEUED")
    assert fleet.hints() == 1  # its worker is told to stop
    assert fleet.task(attempt).attempts_ended == 1


def test_a_large_package_gets_the_time_that_it_takes(fleet: Swept) -> None:
    attempt = fleet.assigned(fleet.node(), package_bytes=10 << 20)
    fleet.sent(attempt)
    fleet.look(after=59)
    assert fleet.state(attempt) == ("assigned", "PLACED")
    fleet.look(after=2)
    assert fleet.state(attempt) == ("lost", "QUEUED")


def test_a_worker_that_says_nothing_is_asked_and_then_loses_the_task(fleet: Swept) -> None:
    node = fleet.node()
    attempt = fleet.assigned(node)
    fleet.claimed(attempt, node)
    fleet.look(after=1)
    fleet.look(after=29)
    assert fleet.hints() == 0
    fleet.look(after=5)
    assert fleet.hints() == 1
    fleet.look(after=24)
    assert fleet.state(attempt) == ("running", "RUNNING")
    fleet.look(after=10)
    assert fleet.state(attempt) == ("lost", "QUEUED")


def test_a_word_for_the_attempt_keeps_it(fleet: Swept) -> None:
    node = fleet.node()
    attempt = fleet.assigned(node)
    fleet.claimed(attempt, node)
    for _ in range(10):
        fleet.effects.words.heard([attempt])
        fleet.look(after=25)
    assert fleet.state(attempt) == ("running", "RUNNING")
    assert fleet.hints() == 0


def test_nobody_is_silent_while_no_gateway_serves(fleet: Swept) -> None:
    node = fleet.node()
    attempt = fleet.assigned(node)
    fleet.claimed(attempt, node)
    fleet.look(after=1)
    for _ in range(5):
        fleet.now += 100
        fleet.look(back_at=fleet.now)
    assert fleet.state(attempt) == ("running", "RUNNING")
    assert fleet.hints() == 0


def test_a_flush_makes_nobody_silent(fleet: Swept) -> None:
    node = fleet.node()
    attempt = fleet.assigned(node)
    fleet.claimed(attempt, node)
    fleet.effects.words.heard([attempt])
    fleet.look(after=1)
    fleet.redis.flushall()
    fleet.look(after=29)
    assert fleet.state(attempt) == ("running", "RUNNING")
    assert fleet.hints() == 0


@pytest.mark.parametrize("sign", ["output", "word"])
def test_a_run_past_its_longest_time_has_failed_with_what_it_said(fleet: Swept, sign: str) -> None:
    """A worker that says that it runs is believed: nothing else of a silent program can be seen."""
    node = fleet.node()
    attempt = fleet.assigned(node, max_minutes=1)
    fleet.claimed(attempt, node)
    fleet.effects.words.heard([attempt])
    if sign == "output":
        fleet.dispatcher.lifecycle.outputs.append_at_end(attempt, b"half of it\n")
    else:
        fleet.effects.words.works(attempt)
    fleet.look(after=59)
    assert fleet.state(attempt) == ("running", "RUNNING")
    fleet.look(after=2)
    assert fleet.state(attempt) == ("finished", "FAILED")
    assert "longest run, 1 minutes" in fleet.reason(attempt)
    assert fleet.hints() == 1


def test_a_worker_that_took_a_task_and_did_nothing_until_its_bound_has_lost_it(fleet: Swept) -> None:
    node = fleet.node()
    attempt = fleet.assigned(node, max_minutes=1)
    fleet.claimed(attempt, node)
    fleet.effects.words.heard([attempt])
    fleet.look(after=61)
    assert fleet.state(attempt) == ("lost", "QUEUED")
    assert "did nothing for 1 minutes" in fleet.reason(attempt)
    assert fleet.hints() == 1  # and is told to stop


def test_a_stop_before_the_call_ends_the_attempt_at_once(fleet: Swept) -> None:
    attempt = fleet.assigned(fleet.node())
    fleet.stop(attempt)
    fleet.look()
    assert fleet.state(attempt) == ("stopped", "STOPPED")
    assert fleet.hints() == 0


def test_a_stop_is_told_again_and_then_done_by_the_pool(fleet: Swept) -> None:
    node = fleet.node()
    attempt = fleet.assigned(node)
    fleet.claimed(attempt, node)
    fleet.dispatcher.lifecycle.outputs.append_at_end(attempt, b"half of it\n")
    fleet.stop(attempt)
    fleet.look(after=6)
    fleet.look(after=6)
    assert fleet.hints() == 2
    fleet.look(after=24)
    assert fleet.state(attempt) == ("running", "RUNNING")
    fleet.look(after=1)
    assert fleet.state(attempt) == ("stopped", "STOPPED")
    task = fleet.task(attempt)
    assert "did not end it within 30 s" in task.reason
    files = unpacked(fleet.files.result_bytes(task.result_attempt))
    assert files["task_logs.txt"] == b"half of it\n"
    assert set(files) == {"task_logs.txt", "execution_log.txt", "task_stopped.txt"}
    assert task.result_bytes == len(fleet.files.result_bytes(attempt))


def test_a_stop_that_the_worker_answers_with_files_keeps_them(fleet: Swept) -> None:
    node = fleet.node()
    attempt = fleet.assigned(node)
    fleet.claimed(attempt, node)
    result = package({"half.txt": "half"})
    with fleet.files.result_writer(attempt) as writer:
        writer.write(result)
        writer.commit()
    fleet.stop(attempt)
    fleet.look(after=6)
    fleet.look(after=40)
    assert fleet.state(attempt) == ("stopped", "STOPPED")
    assert fleet.files.result_bytes(fleet.task(attempt).result_attempt) == result


def test_words_have_an_age_and_an_end(fleet: Swept) -> None:
    fleet.effects.words.heard(["t:1"])
    assert 0 < fleet.redis.ttl(keys.word("t:1")) <= keys.WORD_TTL_SECONDS
    ages = fleet.effects.words.ages(["t:1", "t:2"])
    assert 0 <= ages["t:1"] < 60
    assert ages["t:2"] == float("inf")


def test_pieces_of_output_without_offsets_are_all_kept(fleet: Swept) -> None:
    outputs = fleet.dispatcher.lifecycle.outputs
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: outputs.append_at_end("t:1", b"%03d\n" % number), range(100)))
    lines = outputs.window("t:1").data.decode().split()
    assert sorted(lines) == [f"{number:03d}" for number in range(100)]
    assert outputs.append("t:1", 400, b"end") == 403
