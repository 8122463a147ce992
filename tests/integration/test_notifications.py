"""The end of tasks and jobs is told to people's webhooks: once to each, tried until it is sent or given up.

A real gateway, broker, database and receivers; the dispatcher's side in this process, by a clock of the test.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy import update

from dispatcher.notify import sender
from dispatcher.notify.notifier import Notifier
from dispatcher.sweep.notifications import remove_old
from nodepool.domain.notifications.delivery import KEPT_SECONDS, DeliveryState
from nodepool.domain.notifications.targets import MAX_OF_USER
from nodepool.domain.tasks.states import TaskState
from nodepool.messaging.names import NOTIFY_QUEUE
from nodepool.metrics import catalogue
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql import ends_to_tell, migrate, notifications, tasks as task_store
from nodepool.stores.sql.tables import tasks, users
from nodepool.workflows.notifications import tell_of_task
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.arrays import PACKAGE, new_job_id, submit_array
from tests.support.environment import ROOT
from tests.support.hostile import refused
from tests.support.notified import SETTINGS, Notified
from tests.support.receivers import Receiver, status
from tests.support.stores import add_task, add_user, migrated
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until

NO_ARGUMENT, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
NOT_NOW, TOO_MANY = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.RESOURCE_EXHAUSTED
HOUR = 3600.0
BEFORE = "0027"  # the revision before notifications


@pytest.fixture(scope="module")
def valkey(valkey_server: TestValkey) -> TestValkey:
    valkey_server.emptied()
    return valkey_server


@pytest.fixture(scope="module")
def pool(valkey: TestValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notified]:
    made = Notified(tmp_path_factory.mktemp("notified"), valkey)
    yield made
    made.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


@pytest.fixture
def user(pool: Notified) -> Account:
    pool.begin()
    return pool.inner.someone()


def key_of(pool: Notified, user: Account, receiver: Receiver, name: str = "hook") -> str:
    answer = pool.set_target(user, name, receiver.url)
    assert answer.key.startswith("whsec_")
    return answer.key


# -- single tasks ----------------------------------------------------------------------------------------
def test_the_end_of_a_task_is_told_once_signed_and_shown(
    pool: Notified, user: Account, receiver: Receiver
) -> None:
    key = key_of(pool, user, receiver)
    task = user.submit(
        PACKAGE, notify=["hook"], name="train", labels={"sweep": "first"}, environment={"A": "x"}
    )
    assert (pool.send_all(user), receiver.came) == (0, [])
    assert list(user.detail(task).notify) == ["hook"]
    pool.end_task(task, TaskState.FAILED, exit_code=3, reason="its program failed", node_id="ada/node")
    assert pool.send_all(user) == 1
    (came,) = receiver.came
    assert came.is_signed_with(key)
    assert not came.is_signed_with("whsec_" + "A" * 44)
    data = came.told["data"]
    assert (data["task_id"], data["state"], data["exit_code"], data["node"]) == (
        task,
        "FAILED",
        3,
        "ada/node",
    )
    assert (data["name"], data["labels"], data["reason"]) == (
        "train",
        {"sweep": "first"},
        "its program failed",
    )
    assert "environment" not in data
    assert pool.send_all(user) == 0
    (told,) = user.detail(task).notifications
    assert (told.target, told.state, told.tries, told.words) == ("hook", "sent", 1, "answered 200")
    assert told.event_id == came.event_id
    (target,) = pool.targets(user)
    assert (target.told_state, target.told_words) == ("sent", "answered 200")
    assert target.told_at > 0
    assert len(receiver.came) == 1


@pytest.mark.parametrize("how", ["stop", "dropped by a dependency"])
def test_any_end_is_told(pool: Notified, user: Account, receiver: Receiver, how: str) -> None:
    key_of(pool, user, receiver)
    first = user.submit(PACKAGE)
    task = user.submit(PACKAGE, notify=["hook"], **({} if how == "stop" else {"after": [first]}))
    user.stop(task if how == "stop" else first)
    wait_until(lambda: user.poll(task).status == "STOPPED", "the task is stopped")
    assert pool.send_all(user) == 1
    assert receiver.came[0].told["data"]["state"] == "STOPPED"


def test_several_targets_are_told_each_by_itself(pool: Notified, user: Account, receiver: Receiver) -> None:
    key_of(pool, user, receiver, "good")
    with Receiver(answer=status(500)) as bad:
        key_of(pool, user, bad, "bad")
        task = user.submit(PACKAGE, notify=["good", "bad"])
        pool.end_task(task)
        assert pool.send_all(user) == 2
    found = {each.target: each.state for each in pool.of(user, task)}
    assert found == {"good": DeliveryState.SENT, "bad": DeliveryState.WAITING}
    assert len({each.id for each in pool.of(user, task)}) == 2


def test_a_result_that_is_held_back_is_told_when_it_is_given(
    pool: Notified, user: Account, receiver: Receiver
) -> None:
    """For its owner the task runs until then, and may yet end otherwise."""
    key_of(pool, user, receiver)
    task = user.submit(PACKAGE, notify=["hook"])
    pool.end_task(task, held_back_until=pool.dispatcher.clock() + HOUR)
    assert pool.send_all(user) == 0
    pool.end_task(task, TaskState.FAILED, held_back_until=0, reason="its first result was false")
    assert pool.send_all(user) == 1
    assert receiver.came[0].told["data"]["state"] == "FAILED"


def test_runs_of_a_task_are_not_told_of(pool: Notified, user: Account, receiver: Receiver) -> None:
    key_of(pool, user, receiver)
    task = user.submit(PACKAGE, notify=["hook"], replicas=3)
    rows = pool.database.read(lambda c: task_store.runs_shown(c, task))
    assert len(rows) == 3
    for row in rows:
        pool.end_task(row.id)
    assert pool.send_all(user) == 0
    pool.end_task(task)
    assert pool.send_all(user) == 1


# -- jobs ------------------------------------------------------------------------------------------------
def test_the_end_of_an_array_is_told_with_its_counts_and_its_tasks_are_not(
    pool: Notified, user: Account, receiver: Receiver
) -> None:
    key_of(pool, user, receiver)
    job = new_job_id()
    assert submit_array(user, job, 3, notify=["hook"], name="sweep").notify_kept
    for index, state in enumerate((TaskState.SUCCEEDED, TaskState.FAILED, TaskState.SUCCEEDED)):
        pool.end_task(f"{job}.{index}", state)
    assert pool.send_all(user) == 0, "its end is not noted yet"
    pool.note_job_end(job)
    assert pool.send_all(user) == 1
    (came,) = receiver.came
    data = came.told["data"]
    assert came.told["type"] == "job.ended"
    assert (data["job_id"], data["name"], data["state"]) == (job, "sweep", "FAILED")
    assert (data["tasks"], data["counts"]) == (3, {"FAILED": 1, "SUCCEEDED": 2})
    request = pb.GetJobRequest(job_id=job)
    shown = user.stubs.tasks.GetJob(request, metadata=user.metadata, timeout=CALL_SECONDS).job
    assert list(shown.notify) == ["hook"]
    assert [told.state for told in shown.notifications] == ["sent"]
    assert pool.send_all(user) == 0


def test_a_job_with_a_result_that_is_held_back_waits_for_it(
    pool: Notified, user: Account, receiver: Receiver
) -> None:
    key_of(pool, user, receiver)
    job = new_job_id()
    submit_array(user, job, 1, notify=["hook"])
    pool.end_task(f"{job}.0", held_back_until=pool.dispatcher.clock() + HOUR)
    pool.note_job_end(job)
    assert pool.send_all(user) == 0
    pool.end_task(f"{job}.0", held_back_until=0)
    assert pool.send_all(user) == 1


def test_a_job_that_is_done_again_tells_the_same_targets_that_there_are(
    pool: Notified, user: Account, receiver: Receiver
) -> None:
    key_of(pool, user, receiver, "stays")
    key_of(pool, user, receiver, "goes")
    job, again = new_job_id(), new_job_id()
    submit_array(user, job, 1, notify=["stays", "goes"])
    pool.end_task(f"{job}.0", TaskState.FAILED)
    pool.note_job_end(job)
    pool.remove_target(user, "goes")
    request = pb.ResubmitJobRequest(job_id=job, new_job_id=again)
    user.stubs.tasks.ResubmitJob(request, metadata=user.metadata, timeout=CALL_SECONDS)
    shown = user.stubs.tasks.GetJob(
        pb.GetJobRequest(job_id=again), metadata=user.metadata, timeout=CALL_SECONDS
    )
    assert list(shown.job.notify) == ["stays"]
    detail = user.detail(f"{again}.0")
    assert list(detail.notify) == []


# -- tries -----------------------------------------------------------------------------------------------
def test_what_fails_is_tried_again_with_the_same_id_and_another_signature_and_then_given_up(
    pool: Notified, user: Account, receiver: Receiver
) -> None:
    key, receiver.answer = key_of(pool, user, receiver), status(503)
    task = user.submit(PACKAGE, notify=["hook"])
    pool.stand_still()
    pool.end_task(task)
    assert pool.send_all(user) == 1
    assert pool.send_all(user) == 0, "it waits before the next try"
    (told,) = pool.of(user, task)
    wait = told.due_at - pool.dispatcher.clock()
    assert 0 < wait <= 10
    assert (told.state, told.words) == (DeliveryState.WAITING, "answered 503")
    for _ in range(2):
        pool.ahead += HOUR
        assert pool.send_all(user) == 1
    assert len({came.event_id for came in receiver.came}) == 1
    assert len({came.headers["webhook-timestamp"] for came in receiver.came}) == 3
    assert all(came.is_signed_with(key) for came in receiver.came)
    pool.ahead += 24 * HOUR
    assert pool.send_all(user) == 0
    (told,) = pool.of(user, task)
    assert (told.state, told.tries) == (DeliveryState.FAILED, 3)
    assert told.words == "answered 503 (tried 3 times)"
    assert pool.targets(user)[0].told_state == "failed"


def test_what_the_pool_itself_cannot_send_is_given_up_too(
    pool: Notified, user: Account, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_of(pool, user, receiver)
    task = user.submit(PACKAGE, notify=["hook"])
    pool.end_task(task)

    def breaks(_url: str) -> None:
        raise RuntimeError("a mistake of the pool's")

    monkeypatch.setattr(sender, "webhook_of", breaks)
    for _ in range(3):
        assert pool.send_all(user) == 1
        pool.ahead += HOUR
    assert pool.send_all(user) == 0
    assert pool.of(user, task)[0].words == "the pool could not send it (tried 3 times)"


def test_a_sender_that_is_killed_before_it_notes_the_answer_is_followed_by_one_with_the_same_id(
    pool: Notified, user: Account, receiver: Receiver, valkey: TestValkey
) -> None:
    killed: list[subprocess.Popen[bytes]] = []
    key = key_of(pool, user, receiver)
    task = user.submit(PACKAGE, notify=["hook"])
    pool.end_task(task)
    pool.teller.look()
    (due,) = pool.due(user)

    def kills(_connection: Any, number: int) -> None:
        if number == 1:
            wait_until(lambda: killed, "the test knows its sender")
            os.kill(killed[0].pid, signal.SIGKILL)
            killed[0].wait(60)
        else:
            status(204)(_connection, number)

    receiver.answer = kills
    script = (
        "import sys; from nodepool.settings import Settings; from dispatcher import context;"
        "from dispatcher.notify.sender import NotificationSender as Sender; it = Settings(_env_file=None);"
        "Sender(context.build(it), context.open_secret_box(it)).send(sys.argv[1])"
    )
    inner = pool.inner.settings
    told = {
        "REDIS_URL": valkey.url,
        "DB_PATH": str(inner.db_path),
        "TASK_STORAGE_PATH": str(inner.task_storage_path),
        "STORAGE_KEY": str(SETTINGS["storage_key"]),
        "PUSH_ALLOWED_NETWORKS": "127.0.0.0/8",
    }
    environment = {**os.environ, **told}
    killed.append(subprocess.Popen([sys.executable, "-c", script, due], cwd=ROOT, env=environment))
    assert killed[0].wait(120) == -signal.SIGKILL
    assert pool.send_all(user) == 0, "nobody else sends it before its time is over"
    pool.ahead += HOUR
    assert pool.send_all(user) == 1
    first, second = receiver.came
    assert first.event_id == second.event_id == due
    assert first.is_signed_with(key)
    assert second.is_signed_with(key)
    assert pool.of(user, task)[0].state is DeliveryState.SENT


def test_what_redis_forgets_is_sent_all_the_same(
    pool: Notified, user: Account, receiver: Receiver, valkey: TestValkey
) -> None:
    key_of(pool, user, receiver)
    task = user.submit(PACKAGE, notify=["hook"])
    pool.end_task(task)
    pool.teller.look()
    assert valkey.admin.llen(NOTIFY_QUEUE) > 0
    valkey.admin.flushall()
    pool.teller.look()
    assert valkey.admin.llen(NOTIFY_QUEUE) == 1
    assert pool.send_all(user) == 1


def test_hints_that_nobody_takes_do_not_pile_up(pool: Notified, user: Account, valkey: TestValkey) -> None:
    with Receiver() as receiver:
        key_of(pool, user, receiver)
        pool.end_task(user.submit(PACKAGE, notify=["hook"]))
        valkey.admin.delete(NOTIFY_QUEUE)
        valkey.admin.lpush(NOTIFY_QUEUE, *(["x"] * 100))
        pool.teller.look()
        assert valkey.admin.llen(NOTIFY_QUEUE) == 100
        valkey.admin.delete(NOTIFY_QUEUE)
        assert pool.send_all(user) == 1


def test_a_receiver_that_hangs_holds_up_nobody_else(
    pool: Notified, user: Account, receiver: Receiver
) -> None:
    """More is to be sent to it than there are senders."""
    victims = [pool.inner.someone() for _ in range(6)]
    with Receiver() as hung:
        hung.answer = hung.hangs
        for victim in victims:
            key_of(pool, victim, hung)
            for _ in range(3):
                pool.end_task(victim.submit(PACKAGE, notify=["hook"]))
        pool.teller.look()
        notifier = Notifier(pool.dispatcher, pool.sender)
        try:
            notifier.look()
            wait_until(lambda: len(hung.came) == 3, "as many as may go to one receiver hang")
            key_of(pool, user, receiver)
            pool.end_task(user.submit(PACKAGE, notify=["hook"]))
            pool.teller.look()
            notifier.look()
            receiver.wait_for(1)
            assert len(hung.came) == 3
        finally:
            hung.answer = status(200)
            hung.let_go.set()
            wait_until(lambda: not pool.due(*victims), "all of them were tried")
            notifier.close()


def test_what_fails_in_the_pool_waits_for_the_next_hint(
    pool: Notified, user: Account, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is not tried again and again meanwhile."""
    key_of(pool, user, receiver)
    pool.end_task(user.submit(PACKAGE, notify=["hook"]))
    pool.teller.look()
    (due,) = pool.due(user)
    tried: list[str] = []

    def breaks(notification_id: str) -> None:
        tried.append(notification_id)
        raise RuntimeError("a mistake of the pool's")

    monkeypatch.setattr(pool.sender, "send", breaks)
    notifier = Notifier(pool.dispatcher, pool.sender)
    try:
        for hints in (1, 2):
            notifier.look()
            wait_until(lambda: tried.count(due) >= hints and notifier.is_idle, "it was tried")  # noqa: B023
        assert tried.count(due) == 2
    finally:
        notifier.close()
    monkeypatch.undo()
    assert pool.send_all(user) == 1


# -- who is not told ---------------------------------------------------------------------------------------
def test_a_target_that_is_removed_is_not_sent_anything(
    pool: Notified, user: Account, receiver: Receiver
) -> None:
    key_of(pool, user, receiver)
    before, after = (user.submit(PACKAGE, notify=["hook"]) for _ in range(2))
    pool.end_task(before)
    pool.teller.look()
    pool.remove_target(user, "hook")
    key_of(pool, user, receiver)  # another one of that name
    assert pool.send_all(user) == 1
    pool.remove_target(user, "hook")
    pool.end_task(after)
    assert pool.send_all(user) == 0
    assert receiver.came == []
    for task in (before, after):
        (told,) = pool.of(user, task)
        assert (told.state, told.words) == (DeliveryState.DROPPED, "the target is removed")


def test_a_user_who_is_blocked_is_not_told(pool: Notified, user: Account, receiver: Receiver) -> None:
    key_of(pool, user, receiver)
    task = user.submit(PACKAGE, notify=["hook"])
    pool.end_task(task)
    mine = users.c.id == pool.inner.user_id(user)
    pool.database.write(lambda c: c.execute(update(users).where(mine).values(blocked=True)))
    assert pool.send_all(user) == 1
    pool.database.write(lambda c: c.execute(update(users).where(mine).values(blocked=False)))
    assert receiver.came == []
    assert [told.words for told in pool.of(user, task)] == ["the account is blocked"]


def test_another_users_target_is_not_named(pool: Notified, user: Account, receiver: Receiver) -> None:
    other = pool.inner.someone()
    key_of(pool, other, receiver)
    code, words = refused(lambda: user.submit(PACKAGE, notify=["hook"]))
    assert code is NOT_FOUND
    assert "you have no target hook for notifications, but these: none at all" in words
    assert refused(lambda: pool.remove_target(user, "hook"))[0] is NOT_FOUND
    job = new_job_id()
    assert refused(lambda: submit_array(user, job, 2, notify=["hook"]))[0] is NOT_FOUND


# -- targets -----------------------------------------------------------------------------------------------
def test_a_key_is_told_once_and_a_new_one_signs_beside_the_one_before_for_a_day(
    pool: Notified, user: Account, receiver: Receiver
) -> None:
    first = key_of(pool, user, receiver)
    assert pool.set_target(user, "hook", receiver.url).key == ""
    second = pool.set_target(user, "hook", receiver.url, rotate=True).key
    assert second not in ("", first)
    for expected in ((True, True), (False, True)):
        pool.end_task(user.submit(PACKAGE, notify=["hook"]))
        pool.send_all(user)
        came = receiver.came[-1]
        assert (came.is_signed_with(first), came.is_signed_with(second)) == expected
        pool.ahead += 25 * HOUR
    other = pool.set_target(user, "hook", receiver.url + "&more").key
    assert other not in ("", second), "whoever had the key is another one than who is told now"
    assert first not in str(pool.targets(user))


def test_keys_are_not_in_the_database(pool: Notified, user: Account, receiver: Receiver) -> None:
    key = key_of(pool, user, receiver)
    pool.end_task(user.submit(PACKAGE, notify=["hook"]))
    pool.send_all(user)
    folder = Path(pool.inner.settings.db_path).parent
    data = b"".join(path.read_bytes() for path in folder.glob("users.db*"))
    assert receiver.url.encode() in data
    assert key.removeprefix("whsec_").encode() not in data


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("http://169.254.169.254/latest/meta-data", NOT_NOW, "hands out secrets"),
        ("http://[fd00:ec2::254]/", NOT_NOW, "hands out secrets"),
        ("http://10.0.0.1/", NOT_NOW, "PUSH_ALLOWED_NETWORKS"),
        ("http://[::1]:8080/", NOT_NOW, "PUSH_ALLOWED_NETWORKS"),
        ("http://0.0.0.0/", NOT_NOW, "no single machine"),
        ("http://localhost:8080/", NO_ARGUMENT, "not localhost"),
        ("http://2130706433/", NO_ARGUMENT, "four decimal numbers"),
        ("https://user:pass@example.org/", NO_ARGUMENT, "user and password"),
        ("https://example.org:22/", NO_ARGUMENT, "port 80, 443"),
        ("gopher://example.org/", NO_ARGUMENT, "https://HOST"),
        ("mailto:ada@example.org", NOT_NOW, "set no SMTP_HOST"),
        ("mailto:ada@example.org?bcc=eve@example.org", NO_ARGUMENT, "mailto:NAME@DOMAIN"),
    ],
)
def test_what_is_no_target_is_refused(
    pool: Notified, user: Account, url: str, code: grpc.StatusCode, words: str
) -> None:
    told = refused(lambda: pool.set_target(user, "hook", url))
    assert told[0] is code
    assert words in told[1]
    assert pool.targets(user) == []


def test_a_user_has_so_many_targets(pool: Notified, user: Account, receiver: Receiver) -> None:
    for number in range(MAX_OF_USER):
        key_of(pool, user, receiver, f"t{number}")
    code, words = refused(lambda: pool.set_target(user, "more", receiver.url))
    assert code is TOO_MANY
    assert f"you have {MAX_OF_USER} targets" in words
    assert pool.set_target(user, "t0", receiver.url, rotate=True).key
    assert refused(lambda: user.submit(PACKAGE, notify=[f"t{n}" for n in range(6)]))[0] is NO_ARGUMENT


def test_a_test_is_sent_and_what_came_of_it_is_told(
    pool: Notified, user: Account, receiver: Receiver
) -> None:
    def asked(who: Account, name: str = "hook", event_id: str = "") -> pb.Notification:
        request = pb.TestNotifyTargetRequest(name=name, event_id=event_id)
        stub = who.stubs.users.TestNotifyTarget
        return stub(request, metadata=who.metadata, timeout=CALL_SECONDS).notification

    key = key_of(pool, user, receiver)
    begun = asked(user)
    assert (begun.state, begun.tries) == ("waiting", 0)
    assert pool.send_all(user) == 1
    assert asked(user, event_id=begun.event_id).state == "sent"
    assert receiver.came[0].told["type"] == "test"
    assert receiver.came[0].is_signed_with(key)
    assert refused(lambda: asked(pool.inner.someone(), event_id=begun.event_id))[0] is NOT_FOUND
    assert refused(lambda: asked(user, "none"))[0] is NOT_FOUND


# -- bounds ------------------------------------------------------------------------------------------------
def test_a_user_is_told_so_often_in_a_minute_and_others_do_not_wait_for_it(
    pool: Notified, user: Account, receiver: Receiver
) -> None:
    other, most = pool.inner.someone(), pool.inner.settings.notifications_per_minute
    key_of(pool, user, receiver)
    key_of(pool, other, receiver)
    job = new_job_id()
    submit_array(user, job, most + 3)
    mine = tasks.c.job_id == job
    ended = {"state": TaskState.SUCCEEDED, "finished_at": pool.dispatcher.clock(), "notify": "hook"}
    pool.database.write(lambda c: c.execute(update(tasks).where(mine).values(ended)))
    pool.teller.look()
    pool.end_task(other.submit(PACKAGE, notify=["hook"]))
    assert (pool.send_all(user), pool.send_all(other)) == (most, 1)
    pool.ahead += 61
    assert pool.send_all(user) == 3
    assert len({came.event_id for came in receiver.came}) == most + 4


def test_a_look_takes_no_more_of_one_user_than_of_others(
    pool: Notified, user: Account, receiver: Receiver
) -> None:
    other = pool.inner.someone()
    key_of(pool, user, receiver)
    with Receiver() as another:
        key_of(pool, other, another)
        for _ in range(4):
            pool.end_task(user.submit(PACKAGE, notify=["hook"]))
        pool.end_task(other.submit(PACKAGE, notify=["hook"]))
        pool.teller.look()
        now = pool.dispatcher.clock()
        found = pool.database.read(lambda c: notifications.due(c, now, of_one=2, limit=1000))
        counts = Counter(due.user_id for due in found)
        assert (counts[pool.inner.user_id(user)], counts[pool.inner.user_id(other)]) == (2, 1)
        assert pool.send_all(user, other) == 5


def test_old_ones_go_and_are_counted_while_they_wait(
    pool: Notified, user: Account, receiver: Receiver
) -> None:
    key_of(pool, user, receiver)
    task = user.submit(PACKAGE, notify=["hook"])
    pool.end_task(task)
    pool.teller.look()
    waiting = pool.database.read(notifications.count_waiting)
    before = catalogue.notifications.labels("webhook", "sent")._value.get()
    pool.send_all(user)
    assert catalogue.notifications.labels("webhook", "sent")._value.get() == before + 1
    assert pool.database.read(notifications.count_waiting) == waiting - 1
    remove_old(pool.dispatcher)
    assert len(pool.of(user, task)) == 1
    pool.ahead += KEPT_SECONDS + HOUR
    while remove_old(pool.dispatcher):
        pass
    assert pool.of(user, task) == []
    assert pool.send_all(user) == 0, "it is not told again"


def test_a_repeated_upload_with_other_targets_is_another_one(
    pool: Notified, user: Account, receiver: Receiver
) -> None:
    key_of(pool, user, receiver)
    task = user.submit(PACKAGE, notify=["hook"])
    assert user.submit(PACKAGE, task, notify=["hook"]) == task
    assert refused(lambda: user.submit(PACKAGE, task))[0] is grpc.StatusCode.ALREADY_EXISTS


def test_rows_of_before_tell_nobody_and_the_way_back_is_open(empty_database_url: str) -> None:
    with migrated(empty_database_url) as database:
        owner = database.write(add_user)
        database.write(lambda c: add_task(c, owner, "t1", state=TaskState.SUCCEEDED, finished_at=1.0))
        migrate.downgrade(database, BEFORE)
        migrate.migrate(database)
        assert database.read(lambda c: ends_to_tell.tasks_to_tell(c, 10)) == []
        database.write(lambda c: c.execute(update(tasks).values(notify="hook")))
        (row,) = database.read(lambda c: ends_to_tell.tasks_to_tell(c, 10))
        assert database.write(lambda c: tell_of_task(c, row, 2.0, per_minute=5)) == 0
        assert database.read(lambda c: ends_to_tell.tasks_to_tell(c, 10)) == []
        (told,) = database.read(lambda c: notifications.of_subject(c, owner, "t1"))
        assert told.state is DeliveryState.DROPPED
        migrate.downgrade(database, BEFORE)
        migrate.migrate(database)
        assert database.read(lambda c: task_store.find(c, "t1")).notify == ""
