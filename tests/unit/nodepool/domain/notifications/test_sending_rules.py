"""When notifications are tried, whose turn it is, how they are signed, and what they say."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from nodepool.domain.notifications import events, letters, signing
from nodepool.domain.notifications.delivery import first_try_at, pause_before_next
from nodepool.domain.notifications.turns import MAIL_SERVER, Due, SendingTurns, turn_of
from nodepool.domain.tasks.states import TaskState

TASK = events.ToldTask(
    id="t1", name="train", labels={"sweep": "first"}, state=TaskState.FAILED, reason="exit code 3",
    reason_code="failed", exit_code=3, node="ada/node", attempts=2, created_at=0.0, started_at=60.0,
    finished_at=90.25, paid_cpt=7,
)  # fmt: skip
JOB = events.ToldJob(
    id="j1", kind="array", name="", labels={}, tasks=3, counts={"SUCCEEDED": 2, "FAILED": 1, "STOPPED": 0},
    created_at=0.0, finished_at=100.0, paid_cpt=30, was_stopped=False,
)  # fmt: skip


def _letter(body: str, code: str = "") -> letters.Letter:
    return letters.letter_of(body, lambda seconds: f"at {seconds:g}", code)


def test_waits_double_up_to_an_hour_and_chance_makes_them_shorter() -> None:
    assert [pause_before_next(tries, 0.0) for tries in (1, 2, 3, 4)] == [10.0, 20.0, 40.0, 80.0]
    assert pause_before_next(60, 0.0) == pause_before_next(12, 0.0) == 3600.0
    assert pause_before_next(1, 1.0) == 5.0
    assert 5.0 < pause_before_next(1, 0.3) < 10.0


def test_no_more_than_so_many_are_first_tried_in_a_minute() -> None:
    """Each is a minute after the one that is so many before it."""
    per_minute, due = 3, list[float]()
    for _ in range(7):
        due.append(first_try_at(100.0, due[-per_minute] if len(due) >= per_minute else None))
    assert due == [100.0, 100.0, 100.0, 160.0, 160.0, 160.0, 220.0]
    assert first_try_at(500.0, due[-per_minute]) == 500.0


def _turns(*due: Due) -> SendingTurns:
    turns = SendingTurns(senders=4, of_user=2, of_receiver=3, waiting=10)
    turns.offer(due)
    return turns


def test_a_user_whose_receivers_hang_leaves_room_for_others() -> None:
    turns = _turns(*(Due(f"a{n}", 1, f"hangs{n}:443") for n in range(5)), Due("b", 2, "other:443"))
    taken = [turns.next() for _ in range(4)]
    assert [due.id if due else None for due in taken] == ["a0", "a1", "b", None]
    assert taken[0] is not None
    turns.done(taken[0])
    following = turns.next()
    assert following is not None
    assert following.id == "a2"


def test_a_receiver_that_hangs_leaves_room_for_others() -> None:
    turns = _turns(*(Due(f"a{user}", user, "hangs:443") for user in range(5)), Due("b", 9, "other:443"))
    taken = [turns.next() for _ in range(5)]
    assert [due.id if due else None for due in taken] == ["a0", "a1", "a2", "b", None]


def test_what_waits_or_is_being_sent_is_not_taken_twice_and_no_more_waits_than_may() -> None:
    one = Due("a", 1, "x:443")
    turns = _turns(one, one)
    assert turns.next() == one
    turns.offer([one])
    assert turns.next() is None
    turns.done(one)
    assert turns.is_idle
    turns.offer(Due(str(n), n, f"{n}:443") for n in range(100))
    assert turns.waiting == 10


def test_all_mail_is_by_one_server() -> None:
    assert turn_of("ada@example.org") == turn_of("eve@example.net") == MAIL_SERVER
    assert turn_of("example.org:443") == "example.org:443"


def test_a_signature_is_that_of_standard_webhooks() -> None:
    """With the values of the specification's own example."""
    key, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    told = signing.signed_headers([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert told == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_two_keys_are_two_signatures() -> None:
    keys = [signing.key_text(bytes([number]) * 32) for number in (1, 2)]
    told = signing.signed_headers(keys, "msg_1", 5, b"{}")["webhook-signature"].split(" ")
    alone = [signing.signed_headers([key], "msg_1", 5, b"{}")["webhook-signature"] for key in keys]
    assert told == alone
    assert keys[0].startswith("whsec_")


def test_a_code_follows_from_the_key() -> None:
    key, other = (signing.key_text(bytes([number]) * 32) for number in (1, 2))
    code = signing.code_of(key)
    assert len(code) == 8
    assert code.isdigit()
    assert signing.is_code(key, f" {code}\n")
    assert not signing.is_code(other, code)
    assert not signing.is_code(key, "")
    assert not signing.is_code(key, "\u0663" * 8)


def test_a_task_is_told_with_ids_states_times_and_sums_and_nothing_else() -> None:
    told = json.loads(events.task_body(TASK))
    assert (told["type"], told["timestamp"]) == ("task.ended", 90.25)
    assert told["data"] == {
        "task_id": "t1", "name": "train", "labels": {"sweep": "first"}, "state": "FAILED",
        "reason": "exit code 3", "reason_code": "failed", "exit_code": 3, "node": "ada/node", "attempts": 2,
        "created_at": 0.0, "started_at": 60.0,
        "finished_at": 90.25, "paid_cpt": 7, "job_id": "", "resubmit_of": "",
    }  # fmt: skip
    long = events.task_body(replace(TASK, reason="x" * 100_000))
    assert len(long) < 4000


def test_a_job_is_told_with_its_counts() -> None:
    told = json.loads(events.job_body(JOB))["data"]
    assert (told["state"], told["counts"]) == ("FAILED", {"FAILED": 1, "SUCCEEDED": 2})
    assert replace(JOB, counts={"SUCCEEDED": 3}).state is TaskState.SUCCEEDED
    assert replace(JOB, counts={"SUCCEEDED": 2, "STOPPED": 1}).state is TaskState.STOPPED


@pytest.mark.parametrize("word", ["a\nBcc: eve@example.org", "a\r\n\r\nbody", "a\u2028b", "\u202egnp"])
def test_no_word_of_a_task_begins_a_line_of_a_mail(word: str) -> None:
    body = events.task_body(replace(TASK, id=word, name=word, reason=word, labels={word: word}))
    letter = _letter(body)
    plain = _letter(events.task_body(replace(TASK, id="i", name="n", reason="r", labels={"k": "v"})))
    assert letter.subject.isprintable()
    assert len(letter.text.splitlines()) == len(plain.text.splitlines())
    assert "\u202e" not in letter.text


def test_a_mail_says_what_came_of_it() -> None:
    letter = _letter(events.task_body(TASK))
    assert letter.subject == "FAILED: task train (t1)"
    assert "reason      exit code 3\n" in letter.text
    assert "labels      sweep first\n" in letter.text
    assert "ended at    at 90.25\n" in letter.text
    job = _letter(events.job_body(JOB))
    assert job.subject == "FAILED: job j1"
    assert "of these    FAILED 1, SUCCEEDED 2\n" in job.text
    assert _letter(events.body_of_test("phone", "ada", 0.0)).subject == "HiveMind: a test"
    code = _letter(events.body_of_code("phone", "ada", 0.0), "12345678")
    assert "hivemind notify confirm phone 12345678\n" in code.text
