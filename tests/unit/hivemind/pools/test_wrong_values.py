"""Wrong values are InvalidInputError, and nothing is sent: the pool that they are meant for is not there."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import hivemind
from hivemind import ClientError, InvalidInputError, TaskNeeds
from tests.support.scripted_server import token_of

TOKEN = token_of("alice", exp=4_000_000_000)
# Nobody listens on it.
NOWHERE = "127.0.0.1:9"


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[hivemind.Pool]:
    with hivemind.connect(NOWHERE, token=TOKEN, profile=tmp_path / "profile", retry_seconds=0) as pool:
        yield pool


def double(number: int) -> int:
    return 2 * number


LOCK = threading.Lock()


def locked() -> bool:
    return LOCK.locked()


async def later(_number: int) -> None:
    """A coroutine."""


def generated(number: int) -> Iterator[int]:
    yield number


WRONG_OPTIONS: list[dict[str, Any]] = [
    {"memory": 512}, {"memory": "512"}, {"memory": "0M"}, {"memory": None}, {"gpu_memory": 8},
    {"memory_gb": 1}, {"memory_mb": 1}, {"environment": {}}, {"memroy": "1G"}, {"arguments": ("x",)},
    {"cpu_score": "1000"}, {"cpu_score": -1}, {"cpu_score": True}, {"cpu_score": 1.5}, {"gpu_score": 1 << 40},
    {"env": {"A": 1}}, {"env": {1: "a"}}, {"env": {"PATH": "/"}}, {"env": {"A": "\0"}}, {"env": [("A", "1")]},
    {"env": "A=1"}, {"env": {"A": "\ud800"}}, {"labels": {"k": 1}}, {"labels": {"a b": ""}},
    {"labels": ["k"]},
    {"name": 7}, {"name": "x" * 129}, {"name": "a\nb"}, {"image": None}, {"location": "nowhere"},
    {"location_mode": "maybe"}, {"network": 1}, {"max_minutes": -1}, {"max_minutes": "5"}, {"priority": 10},
    {"priority": "high"}, {"min_trust": "some"}, {"replicas": 6}, {"replicas": -1}, {"exclusive": "yes"},
    {"compare_outputs": "out"}, {"compare_outputs": [1]}, {"compare_outputs": ["/etc/passwd"]},
    {"exclusive": True, "replicas": 2}, {"gpu_name": 5},
    {"task_id": "a b"}, {"task_id": 7}, {"files": ""}, {"files": 7}, {"files": "a\0"}, {"in_memory": 1 << 30},
]  # fmt: skip

CALLS: dict[str, Callable[[hivemind.Pool], Any]] = {
    "a path that is a number": lambda pool: pool.submit(7),  # type: ignore[arg-type]
    "no path": lambda pool: pool.submit(""),
    "None": lambda pool: pool.submit(None),  # type: ignore[arg-type]
    "a path of bytes": lambda pool: pool.submit(b"main.py"),  # type: ignore[arg-type]
    "words that are numbers": lambda pool: pool.submit("main.py", 1),
    "keywords for a path": lambda pool: pool.submit("main.py", kwargs={"a": 1}),
    "kwargs that are none": lambda pool: pool.submit(double, kwargs=[1]),  # type: ignore[arg-type]
    "kwargs without names": lambda pool: pool.submit(double, kwargs={1: 1}),  # type: ignore[dict-item]
    "a coroutine function": lambda pool: pool.map(later, [1]),
    "a generator function": lambda pool: pool.submit(generated, 1),
    "a function with a lock": lambda pool: pool.submit(locked),
    "items without an end": lambda pool: pool.map(double, itertools.count()),
    "values without an end": lambda pool: pool.submit_array("main.py", {"a": itertools.count()}, "{a}"),
    "an item with a lock": lambda pool: pool.map(double, [1, LOCK]),
    "an argument with a lock": lambda pool: pool.submit(double, LOCK),
    "take_pending with a function": lambda pool: pool.submit(double, 1, take_pending=True),
    "take_pending with map": lambda pool: pool.map(double, [1], take_pending=True),
    "replicas with map": lambda pool: pool.map(double, [1], replicas=2),
    "no function": lambda pool: pool.map(7, [1]),  # type: ignore[arg-type]
    "no items": lambda pool: pool.map(double, []),
    "items that are none": lambda pool: pool.map(double, 7),  # type: ignore[arg-type]
    "too many items": lambda pool: pool.map(double, range(100_001)),
    "a job_id": lambda pool: pool.map(double, [1], job_id="../x"),
    "max_cpt": lambda pool: pool.map(double, [1], max_cpt=-1),
    "max_cpt in words": lambda pool: pool.map(double, [1], max_cpt="all"),  # type: ignore[arg-type]
    "no tasks": lambda pool: pool.submit_array("main.py", 0),
    "too many tasks": lambda pool: pool.submit_array("main.py", 100_001),
    "a template": lambda pool: pool.submit_array("main.py", 2, "{nothing}"),
    "values that are text": lambda pool: pool.submit_array("main.py", {"lr": "0.1"}),
    "values without a name": lambda pool: pool.submit_array("main.py", {1: [1]}),  # type: ignore[dict-item]
    "tasks that are text": lambda pool: pool.submit_array("main.py", "0-9"),  # type: ignore[arg-type]
    "an id": lambda pool: pool.task("a/b"),
    "an id that is a number": lambda pool: pool.task(7),  # type: ignore[arg-type]
    "a job's id": lambda pool: pool.job("a b"),
    "a job's id that is None": lambda pool: pool.job(None),  # type: ignore[arg-type]
    "a timeout": lambda pool: pool.task("t").wait(-1),
    "a timeout in words": lambda pool: pool.task("t").result("soon"),  # type: ignore[arg-type]
    "a destination": lambda pool: pool.task("t").download(7),  # type: ignore[arg-type]
    "max_workers": lambda pool: pool.executor(0),
    "max_workers in words": lambda pool: pool.executor("all"),  # type: ignore[arg-type]
    "an initializer": lambda pool: pool.executor(initializer=7),  # type: ignore[arg-type]
    "an initializer with a lock": lambda pool: pool.executor(initializer=double, initargs=(LOCK,)),
    "an executor's option": lambda pool: pool.executor(memory=512),  # type: ignore[arg-type]
    "a call with a lock": lambda pool: pool.executor().submit(double, LOCK),
    "a call of nothing": lambda pool: pool.executor().submit(None),  # type: ignore[arg-type]
    "a chunksize": lambda pool: pool.executor().map(double, [1], chunksize=0),
    "a map's timeout": lambda pool: pool.executor().map(double, [1], timeout=-1),
}  # fmt: skip


@pytest.mark.parametrize("options", WRONG_OPTIONS, ids=str)
def test_a_wrong_option_is_refused_before_anything_is_sent(
    pool: hivemind.Pool, options: dict[str, Any]
) -> None:
    for work in (double, "main.py"):
        with pytest.raises(InvalidInputError):
            pool.submit(work, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_wrong_value_is_refused_before_anything_is_sent(
    pool: hivemind.Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[hivemind.Pool], Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "main.py").write_text("")
    with pytest.raises(InvalidInputError) as refused:
        call(pool)
    assert str(refused.value)
    assert isinstance(refused.value, ClientError | ValueError)

    async def the_same() -> None:
        other = hivemind.connect_async(NOWHERE, token=TOKEN, profile=tmp_path / "profile", retry_seconds=0)
        try:
            found = call(other)  # type: ignore[arg-type]
            if inspect.isawaitable(found):
                await found
        finally:
            await other.close()

    with pytest.raises(InvalidInputError):
        asyncio.run(the_same())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            lambda pool: pool.submit(locked),
            "the function locked cannot be pickled: it uses 'LOCK', of _thread.lock",
        ),
        (lambda pool: pool.map(double, [1, LOCK]), "item 1 of double cannot be pickled"),
        (
            lambda pool: pool.executor().submit(locked),
            "the function locked cannot be pickled: it uses 'LOCK'",
        ),
        (lambda pool: pool.submit(double, memroy="1G"), "do you mean memory?"),
    ],
)
def test_a_refusal_names_what_is_to_blame(
    pool: hivemind.Pool, given: Callable[[hivemind.Pool], Any], told: str
) -> None:
    with pytest.raises(InvalidInputError) as refused:
        given(pool)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    "given",
    [
        {"gateway": 7}, {"gateway": ""}, {"token": 7}, {"token": ""}, {"tls": "yes"}, {"ca_file": 7},
        {"profile": 7}, {"profile": ""}, {"retry_seconds": "5"}, {"retry_seconds": -1},
        {"allow_insecure_plaintext": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_connection_is_refused(given: dict[str, Any]) -> None:
    for connect in (hivemind.connect, hivemind.connect_async):
        with pytest.raises(InvalidInputError):
            connect(**given)


@pytest.mark.parametrize(
    "given", [{"gateway": "nowhere"}, {"gateway": "example.org:1"}, {"ca_file": "/no", "tls": True}]
)
def test_a_connection_that_cannot_be_is_a_client_error(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ClientError):
        hivemind.connect(**{"gateway": NOWHERE, "profile": tmp_path / "none", **given})


def test_what_a_task_needs_is_of_its_kind_in_the_older_client_too() -> None:
    wrong: list[dict[str, Any]] = [
        {"memory_gb": "2"}, {"memory_gb": 1.5}, {"memory_gb": True}, {"network": None}, {"environment": None},
        {"labels": 3}, {"arguments": "x"}, {"arguments": None}, {"priority": 1.0}, {"image": 5},
        {"memory_mb": 512, "memory_gb": 2},
    ]  # fmt: skip
    for needs in wrong:
        with pytest.raises(InvalidInputError):
            TaskNeeds(**needs)
    assert TaskNeeds(memory_mb=512, memory_gb=1).memory_mb == 512


def test_without_a_login_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HIVEMIND_TOKEN", raising=False)
    with (
        hivemind.connect(NOWHERE, profile=tmp_path / "none", retry_seconds=0) as pool,
        pytest.raises(hivemind.NotLoggedInError),
    ):
        pool.balance()


OLDER: dict[str, Callable[[hivemind.NodePoolClient], Any]] = {
    "a source": lambda client: client.submit(None),  # type: ignore[arg-type]
    "a task's id": lambda client: client.submit("main.py", task_id=7),  # type: ignore[arg-type]
    "an amount": lambda client: client.transfer("bob", "5"),  # type: ignore[arg-type]
    "nobody": lambda client: client.transfer(None, 5),  # type: ignore[arg-type]
    "a status": lambda client: client.status(7),  # type: ignore[arg-type]
    "an explanation": lambda client: client.explain(None),  # type: ignore[arg-type]
    "logs": lambda client: client.logs(["t"]),  # type: ignore[arg-type]
    "a stop": lambda client: client.stop(b"\xff"),  # type: ignore[arg-type]
    "a delete": lambda client: client.delete(7),  # type: ignore[arg-type]
    "a node": lambda client: client.drain(7),  # type: ignore[arg-type]
    "a destination": lambda client: client.result("t", 7),  # type: ignore[arg-type]
    "a result": lambda client: client.result(7, "out"),  # type: ignore[arg-type]
    "a watch": lambda client: list(client.watch(7)),  # type: ignore[arg-type]
    "a name that is no text": lambda client: client.status("\ud800"),
    "a page": lambda client: client.statement(limit="all"),  # type: ignore[arg-type]
    "a larger page": lambda client: client.credit(limit=1 << 40),
    "a login": lambda client: client.login("ada", None),  # type: ignore[arg-type]
    "a registration": lambda client: client.register(7, "a password"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("call", OLDER.values(), ids=OLDER)
def test_the_older_client_refuses_it_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[hivemind.NodePoolClient], Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "main.py").write_text("")
    retry = hivemind.RetryPolicy(patience_seconds=0)
    with (
        hivemind.NodePoolClient(NOWHERE, token=TOKEN, retry=retry) as client,
        pytest.raises(InvalidInputError),
    ):
        call(client)
