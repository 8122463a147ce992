"""`hivemind notify`, `--notify` in all its places, and the same in the SDK: a real gateway and sender."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import hivemind
from dispatcher.notify.notifier import Notifier
from hivemind.errors import ExitCode
from nodepool.domain.tasks.states import TaskState
from tests.support.accounts import Account
from tests.support.command import Shell
from tests.support.notified import Notified
from tests.support.receivers import Receiver, status
from tests.support.valkey import TestValkey


@pytest.fixture(scope="module")
def pool(valkey_server: TestValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notified]:
    valkey_server.emptied()
    made = Notified(tmp_path_factory.mktemp("notified"), valkey_server)
    yield made
    made.close()


@pytest.fixture
def user(pool: Notified) -> Account:
    return pool.inner.someone()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


@pytest.fixture
def shell(
    pool: Notified,
    user: Account,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Shell:
    for name in [name for name in os.environ if name.startswith(("HIVEMIND_", "XDG_"))]:
        if not name.startswith("HIVEMIND_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HIVEMIND_GATEWAY", f"127.0.0.1:{pool.inner.port}")
    monkeypatch.setenv("HIVEMIND_TOKEN", user.token)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    (tmp_path / "work/main.py").write_text("print('hello')")
    return Shell(capfd, tmp_path)


def _answer(text: str) -> Any:
    """The gateway is in this process, and its lines are not the command's."""
    return json.loads(next(line for line in text.splitlines() if line.startswith(("{", "["))))


@contextmanager
def _sending(pool: Notified) -> Iterator[None]:
    """A sender that looks all the time, as hints make it."""
    over, notifier = threading.Event(), Notifier(pool.dispatcher, pool.sender)

    def work() -> None:
        while not over.wait(0.05):
            notifier.look()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        notifier.close()


def test_a_target_is_set_tried_listed_and_removed(pool: Notified, shell: Shell, receiver: Receiver) -> None:
    done = shell("notify", "set", "phone", receiver.url)
    assert done.code == 0
    key = next(line for line in done.out.splitlines() if line.startswith("whsec_"))
    assert "is not shown again" in done.err
    again = shell("notify", "set", "phone", receiver.url)
    assert (again.code, "whsec_" in again.out) == (0, False)
    assert "nothing was changed" in again.err
    with _sending(pool):
        tried = shell("notify", "test", "phone")
        assert tried.code == 0
        assert "phone: sent, and answered 200" in tried.err
        receiver.answer = status(503)
        failed = shell("notify", "test", "phone")
        assert failed.code == ExitCode.FAILURE
        assert "phone: answered 503; it is tried again" in failed.err
    assert receiver.came[0].is_signed_with(key)
    shown = shell("notify", "ls").out
    assert "phone" in shown
    assert receiver.url in shown
    assert "answered 503" in shown
    told = _answer(shell("notify", "ls", "--json").out)
    assert [(each["name"], each["kind"], each["confirmed"]) for each in told] == [("phone", "webhook", True)]
    assert key not in shown
    removed = shell("notify", "rm", "phone", "none", "--json")
    assert removed.code == ExitCode.NOT_FOUND
    assert [each["removed"] for each in _answer(removed.out)] == [True, False]
    assert "there are no targets" in shell("notify", "ls").err


@pytest.mark.parametrize(
    ("name", "url", "words"),
    [
        ("two words", "https://example.org/", "a target's name has at most 64"),
        ("x", "example.org", "https://HOST"),
        ("x", "https://a:b@example.org/", "with a user and password is not taken"),
        ("x", "mailto:a@b.org,c@d.org", "mailto:NAME@DOMAIN"),
        ("x", "http://169.254.169.254/", "hands out secrets"),
        ("x", "mailto:a@example.org", "its operator has set no SMTP_HOST"),
    ],
)
def test_what_is_no_target_is_refused_with_what_to_do(shell: Shell, name: str, url: str, words: str) -> None:
    done = shell("notify", "set", name, url)
    assert done.code == ExitCode.REFUSED
    assert words in done.err


def test_each_way_to_submit_tells_its_targets(
    pool: Notified, user: Account, shell: Shell, receiver: Receiver, tmp_path: Path
) -> None:
    shell("notify", "set", "phone", receiver.url)
    shell("notify", "set", "desk", receiver.url)
    one = _answer(shell("submit", "work", "--notify", "phone", "--notify", "desk", "--json").out)["task_id"]
    assert list(user.detail(one).notify) == ["phone", "desk"]
    (tmp_path / "work/hivemind.toml").write_text('[submit]\nnotify = ["desk"]\n')
    project = _answer(shell("submit", "work", "--json").out)["task_id"]
    assert list(user.detail(project).notify) == ["desk"]
    array = _answer(shell("submit", "work", "--array", "0-2", "--notify", "phone", "--json").out)
    assert _answer(shell("job", "status", array["job_id"], "--json").out)["notify"] == ["phone"]
    flow = tmp_path / "flow.toml"
    flow.write_text('notify = ["desk"]\n[steps.a]\npath = "work"\nnotify = ["phone"]\n')
    sent = _answer(shell("run", "flow.toml", "--json").out)["job_id"]
    assert _answer(shell("job", "status", sent, "--json").out)["notify"] == ["desk"]
    assert list(user.detail(f"{sent}.a").notify) == ["phone"]
    other = _answer(shell("run", "flow.toml", "--notify", "phone", "--json").out)["job_id"]
    assert _answer(shell("job", "status", other, "--json").out)["notify"] == ["phone"]
    for task in (one, project, f"{sent}.a"):
        pool.end_task(task)
    pool.note_job_end(sent)
    assert pool.send_all(user) == 5
    kinds = sorted(came.told["type"] for came in receiver.came)
    assert kinds == ["job.ended"] + ["task.ended"] * 4
    assert "notify" in shell("status", one).out
    assert "phone (told), desk (told)" in shell("status", one).out
    assert "desk (told)" in shell("job", "status", sent).out
    told = _answer(shell("status", one, "--json").out)["notifications"]
    assert sorted(each["state"] for each in told) == ["sent", "sent"]


def test_wrong_names_are_refused_before_and_by_the_pool(shell: Shell, tmp_path: Path) -> None:
    done = shell("submit", "work", "--notify", "two words")
    assert (done.code, "a target's name" in done.err) == (ExitCode.REFUSED, True)
    done = shell("submit", "work", "--notify", "nobody")
    assert done.code == ExitCode.NOT_FOUND
    assert "you have no target nobody for notifications" in done.err
    done = shell("submit", "work", "--notify", "nobody", "--array", "0-1")
    assert done.code == ExitCode.NOT_FOUND
    flow = tmp_path / "flow.toml"
    flow.write_text('notify = ["nobody"]\n[steps.a]\npath = "work"\n')
    for how in ((), ("--dry-run",)):
        done = shell("run", "flow.toml", *how)
        assert done.code == ExitCode.NOT_FOUND
        assert "you have no target nobody" in done.err
    flow.write_text('[steps.a]\npath = "work"\narray = "0-2"\nnotify = ["nobody"]\n')
    done = shell("run", "flow.toml")
    assert "step 'a' is an array, whose tasks are not told of one by one" in done.err


def test_what_is_done_again_tells_who_is_still_there(
    pool: Notified, user: Account, shell: Shell, receiver: Receiver, tmp_path: Path
) -> None:
    for name in ("stays", "goes"):
        shell("notify", "set", name, receiver.url)
    (tmp_path / "flow.toml").write_text('notify = ["stays", "goes"]\n[steps.a]\npath = "work"\n')
    sent = _answer(shell("run", "flow.toml", "--json").out)["job_id"]
    task = _answer(shell("submit", "work", "--notify", "stays", "--notify", "goes", "--json").out)["task_id"]
    pool.end_task(f"{sent}.a", TaskState.FAILED, exit_code=1)
    pool.note_job_end(sent)
    pool.end_task(task, TaskState.FAILED, exit_code=1)
    shell("notify", "rm", "goes")
    again = _answer(shell("resubmit", task, "--json").out)["task_id"]
    assert list(user.detail(again).notify) == ["stays"]
    shell("notify", "set", "other", receiver.url)
    told = _answer(shell("resubmit", task, "--notify", "other", "--json").out)["task_id"]
    assert list(user.detail(told).notify) == ["other"]
    whole = _answer(shell("job", "resubmit", sent, "--failed", "--notify", "other", "--json").out)["job_id"]
    assert _answer(shell("job", "status", whole, "--json").out)["notify"] == ["other"]
    assert list(user.detail(f"{whole}.a").notify) == []
    job = _answer(shell("job", "resubmit", sent, "--failed", "--json").out)["job_id"]
    assert _answer(shell("job", "status", job, "--json").out)["notify"] == ["stays"]


def test_programs_set_targets_and_name_them(
    pool: Notified, user: Account, shell: Shell, receiver: Receiver
) -> None:
    with hivemind.connect() as connected:
        assert connected.set_notify_target("hook", receiver.url).key.startswith("whsec_")
        assert [each.name for each in connected.notify_targets()] == ["hook"]
        task = connected.submit(abs, -1, notify=["hook"])
        job = connected.map(abs, [1, 2], notify=["hook"])
        begun = connected.test_notify_target("hook")
        assert begun.state == "waiting"
        assert pool.send_all(user) == 1
        assert connected.test_notify_target("hook", event_id=begun.event_id).state == "sent"
        assert task.status().notify == ("hook",)
        assert job.status().notify == ("hook",)
        with pytest.raises(hivemind.InvalidInputError, match="at most 5"):
            connected.submit(abs, -1, notify=[f"t{number}" for number in range(6)])
        with pytest.raises(hivemind.InvalidInputError, match="https://HOST"):
            connected.set_notify_target("hook", "example.org")
        with pytest.raises(hivemind.ClientError, match="no target nobody"):
            connected.confirm_notify_target("nobody", "1")
        assert connected.remove_notify_target("hook") == "target hook is removed"


def test_programs_of_asyncio_do_so_too(
    pool: Notified, user: Account, shell: Shell, receiver: Receiver
) -> None:
    async def work() -> tuple[str, ...]:
        async with hivemind.connect_async() as connected:
            await connected.set_notify_target("hook", receiver.url)
            assert [each.kind for each in await connected.notify_targets()] == ["webhook"]
            task = await connected.submit(abs, -1, notify=["hook"])
            assert (await connected.test_notify_target("hook")).state == "waiting"
            found = await task.status()
            assert await connected.remove_notify_target("hook") == "target hook is removed"
            return found.notify

    assert asyncio.run(work()) == ("hook",)
    assert pool.send_all(user) == 1  # the test: dropped, since its target is removed
    assert receiver.came == []
