"""`hivemind.connect()` through a whole pool: paths, functions, jobs, asyncio, and an executor.

The executor keeps to what CPython's own tests ask of one: order, exceptions, time-outs, cancelling, shutdown,
waiting.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import CancelledError, wait
from pathlib import Path
from typing import Any

import pytest

import hivemind
from hivemind import (
    InvalidInputError,
    NotYetError,
    RemoteTraceback,
    TaskFailedError,
    TaskState,
    WorkerSetupError,
)
from tests.support.accounts import Account
from tests.support.environment import ROOT
from tests.support.pool import TestPool
from tests.support.waiting import wait_until

# No node gives so much: such a task waits.
NOWHERE: dict[str, Any] = {"gpu_score": 1_000_000}


@pytest.fixture(scope="module")
def user(pool: TestPool) -> Account:
    return pool.register_user()


@pytest.fixture
def sdk(
    pool: TestPool, user: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[hivemind.Pool]:
    monkeypatch.chdir(tmp_path)
    with hivemind.connect(pool.address, token=user.token, profile=tmp_path / "none") as connected:
        yield connected


@pytest.fixture
def executor(sdk: hivemind.Pool) -> Iterator[hivemind.PoolExecutor]:
    with sdk.executor(memory="128M") as made:
        yield made


def halves(number: int) -> float:
    return 10 / number


def prepares(word: str) -> None:
    os.environ["READY"] = word


def limit() -> int:
    return resource.getrlimit(resource.RLIMIT_DATA)[0]


def waits(_: int = 0) -> None:
    signal.pause()


# -- paths and functions ------------------------------------------------------------------------------


def test_a_path_is_given_words_and_gives_files(sdk: hivemind.Pool, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("import sys; print(sys.argv[1:]); open('made', 'w').write('42')")
    task = sdk.submit("main.py", "--lr", "0.1", memory="300M", labels={"k": "v"}, name="one <b>")
    assert task.state is None
    files = task.result()
    assert files.path.joinpath("made").read_text() == "42"
    assert task.logs() == "['--lr', '0.1']\n"
    info = task.status()
    assert (info.memory_mb, info.labels, info.state) == (300, {"k": "v"}, TaskState.SUCCEEDED)
    assert "&lt;b&gt;" in task._repr_html_()
    assert repr(task) == f"<Task {task.task_id}, succeeded>"
    job = sdk.submit_array("main.py", {"lr": [1, 2]}, "{lr}", memory="300M")
    assert job.wait().succeeded == 2
    assert job.task(1).logs() == "['2']\n"
    assert sorted(each.index for each in job.download("out/{index}", only=["made"])) == [0, 1]
    assert [path.name for path in (tmp_path / "out" / "1").iterdir()] == ["made"]


def test_a_run_is_given_the_memory_that_was_asked_for(sdk: hivemind.Pool) -> None:
    assert sdk.submit(limit, memory="300M").result() == 300 << 20


def test_a_function_is_mapped_over_items(sdk: hivemind.Pool) -> None:
    job = sdk.map(halves, [1, 2, 0, 4], memory="128M", name="halves")
    ended = {task.index: task for task in job.as_completed(progress=True)}
    assert sorted(ended) == [0, 1, 2, 3]
    assert (ended[1].result(), ended[1].done()) == (5.0, True)
    assert [task.index for task in job.failed] == [2]
    with pytest.raises(ZeroDivisionError) as raised:
        ended[2].result()
    assert isinstance(raised.value.__cause__, RemoteTraceback)
    assert "return 10 / number" in "".join(traceback.format_exception(raised.value))
    with pytest.raises(ZeroDivisionError):
        job.results()
    values = job.results(return_exceptions=True)
    assert (values[:2], values[3], type(values[2])) == ([10.0, 5.0], 2.5, ZeroDivisionError)
    assert repr(job) == f"<Job {job.job_id} 'halves', 4 tasks: 3 succeeded, 1 failed>"
    assert "3 <span" in job._repr_html_()
    once_more = job.failed.resubmit(memory="300M")
    assert (len(once_more), type(once_more.results(return_exceptions=True)[0])) == (1, ZeroDivisionError)
    assert once_more.task(2).status().memory_mb == 300
    again = sdk.job(job.job_id, objects=True)
    assert again.task(3).result() == 2.5
    iterated = iter(again)
    assert [next(iterated), next(iterated)] == [10.0, 5.0]
    with pytest.raises(ZeroDivisionError):
        next(iterated)


def test_what_waits_is_not_waited_for_for_ever_and_can_be_stopped(sdk: hivemind.Pool) -> None:
    job = sdk.map(halves, [1, 2], **NOWHERE)
    for waiting in (job.wait, job.results, job.task(0).result, job.task(0).wait):
        with pytest.raises(NotYetError):
            waiting(0)  # type: ignore[operator]
    assert job.stop() == 2
    with pytest.raises(TaskFailedError, match="was stopped"):
        job.results()
    assert job.counts[TaskState.STOPPED] == 2


def test_the_same_is_awaited(pool: TestPool, sdk: hivemind.Pool, user: Account) -> None:
    async def everything() -> None:
        async with hivemind.connect_async(pool.address, token=user.token, profile="none") as aio:
            job = await aio.map(halves, [1, 2, 5], memory="128M")
            assert {task.index async for task in job.as_completed()} == {0, 1, 2}
            assert await job == [10.0, 5.0, 2.0]
            assert [value async for value in job] == [10.0, 5.0, 2.0]
            failing = await aio.submit(halves, 0, memory="128M")
            with pytest.raises(ZeroDivisionError):
                await failing
            assert "ZeroDivisionError" in await failing.logs()
            assert (await aio.job(job.job_id)).name == "halves"
            assert job.job_id in {each.job_id for each in await aio.jobs()}
            assert [node.node_id for node in await aio.nodes()] == [pool.agents[0].node_id]
            with pytest.raises(hivemind.MissingError):
                await aio.task("task_that_is_not").status()
            with aio.executor(memory="128M") as executor:
                loop = asyncio.get_running_loop()
                assert await loop.run_in_executor(executor, halves, 4) == 2.5

    asyncio.run(everything())

    async def of_the_other() -> None:
        assert await sdk.submit(halves, 5, memory="128M") == 2.0
        assert await sdk.map(halves, [5], memory="128M") == [2.0]

    asyncio.run(of_the_other())


# -- the executor -------------------------------------------------------------------------------------


def test_a_map_keeps_its_order_and_ends_with_the_shortest(executor: hivemind.PoolExecutor) -> None:
    found = list(executor.map(pow, range(6), [2, 3, 2, 3, 2], chunksize=2))
    assert found == list(map(pow, range(6), [2, 3, 2, 3, 2]))
    assert list(executor.map(halves, [])) == []


def test_a_map_raises_where_its_turn_is(executor: hivemind.PoolExecutor) -> None:
    found = executor.map(halves, [5, 0, 2])
    assert next(found) == 2.0
    with pytest.raises(ZeroDivisionError):
        next(found)
    assert list(executor.map(halves, [5, 2, 4], buffersize=1)) == [2.0, 5.0, 2.5]


def test_calls_take_names_that_are_the_executors_own(executor: hivemind.PoolExecutor) -> None:
    future = executor.submit(lambda **names: names, self=1, fn=2)
    assert future.result() == {"self": 1, "fn": 2}
    assert executor.submit(divmod, 7, 2).result() == (3, 1)


def test_futures_are_waited_for_in_every_way(executor: hivemind.PoolExecutor) -> None:
    told: list[bool] = []
    futures = [executor.submit(halves, number) for number in (1, 0, 2)]
    futures[0].add_done_callback(lambda future: told.append(future.done()))
    ended = list(concurrent.futures.as_completed(futures))
    assert set(ended) == set(futures)
    assert told == [True]
    assert wait(futures).not_done == set()
    assert [type(future.exception()) for future in futures] == [type(None), ZeroDivisionError, type(None)]
    assert isinstance(futures[1].exception().__cause__, RemoteTraceback)  # type: ignore[union-attr]
    assert all(future.task_id in repr(future) for future in futures)
    assert not futures[0].cancel()


def test_what_has_not_begun_can_be_cancelled_and_its_task_is_stopped(sdk: hivemind.Pool) -> None:
    with sdk.executor(**NOWHERE) as executor:
        first, second = executor.submit(halves, 1), executor.submit(halves, 2)
        wait_until(lambda: first.task_id and second.task_id, "both are in the pool")
        with pytest.raises(TimeoutError):
            first.result(0)
        with pytest.raises(TimeoutError):
            next(executor.map(halves, [1], timeout=0))
        assert first.cancel()
        assert (first.cancelled(), first.done(), first.running()) == (True, True, False)
        with pytest.raises(CancelledError):
            first.result()
        assert wait([first], 0).done == {first}
        wait_until(lambda: sdk.task(first.task_id).status().state is TaskState.STOPPED, "it is stopped")
        assert not sdk.task(second.task_id).done()
        executor.shutdown(wait=False, cancel_futures=True)
        assert second.cancelled()
        with pytest.raises(RuntimeError, match="after its shutdown"):
            executor.submit(halves, 1)


def test_what_runs_is_not_cancelled_and_its_end_is_told(
    sdk: hivemind.Pool, executor: hivemind.PoolExecutor
) -> None:
    future = executor.submit(waits)
    wait_until(future.running, "it has begun")
    assert not future.cancel()
    sdk.task(future.task_id).stop()
    error = future.exception()
    assert isinstance(error, TaskFailedError)
    assert "was stopped" in str(error)


def test_a_worker_that_dies_takes_no_other_call_with_it(executor: hivemind.PoolExecutor) -> None:
    died, fine = executor.submit(os._exit, 3), executor.submit(halves, 5)
    error = died.exception()
    assert isinstance(error, TaskFailedError)
    assert "exit code 3" in str(error)
    assert (error.task.exit_code if error.task else None, fine.result()) == (3, 2.0)


def test_no_more_than_max_workers_are_in_the_pool(sdk: hivemind.Pool) -> None:
    with sdk.executor(1, memory="128M") as executor:
        futures = [executor.submit(halves, number) for number in (1, 2, 5)]
        assert [future.result() for future in futures] == [10.0, 5.0, 2.0]
        assert len({future.task_id.rpartition(".")[0] for future in futures}) == 3


def test_an_initializer_goes_before_each_call_and_breaks_the_executor_where_it_fails(
    sdk: hivemind.Pool,
) -> None:
    with sdk.executor(initializer=prepares, initargs=("yes",), memory="128M") as executor:
        assert executor.submit(os.getenv, "READY").result() == "yes"
    with sdk.executor(initializer=halves, initargs=(0,), memory="128M") as executor:
        first = executor.submit(halves, 1)
        error = first.exception()
        assert isinstance(error, WorkerSetupError | concurrent.futures.BrokenExecutor)
        with pytest.raises(concurrent.futures.BrokenExecutor):
            executor.submit(halves, 1)


def test_the_pool_refuses_and_every_future_tells(sdk: hivemind.Pool) -> None:
    with sdk.executor(image="not-allowed:1") as executor:
        futures = [executor.submit(halves, number) for number in range(3)]
        assert all(isinstance(future.exception(), hivemind.RefusedError) for future in futures)
    with pytest.raises(InvalidInputError):
        sdk.executor(-1)


def test_a_program_that_closes_nothing_ends_when_its_calls_have(
    pool: TestPool, user: Account, tmp_path: Path
) -> None:
    program = (
        "import hivemind\n"
        "executor = hivemind.connect(profile='none').executor(memory='128M')\n"
        "executor.submit(divmod, 7, 2).add_done_callback(lambda future: print(future.result()))\n"
    )
    environment = pool.base_environment() | {"HIVEMIND_GATEWAY": pool.address, "HIVEMIND_TOKEN": user.token}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("(3, 1)\n", "", 0)


# -- docs/sdk.md --------------------------------------------------------------------------------------

_SWEEP = int(os.environ.get("HIVEMIND_TEST_SWEEP", "12"))
_JOB = re.compile(r"job_\d{8}_\d{6}_[0-9a-f]{8}")


def transcript(name: str) -> str:
    """The block of docs/sdk.md, of as many tasks as this run can afford; `make long` has all 200."""
    text = (ROOT / "docs" / "sdk.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- transcript: {name} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert found, f"docs/sdk.md has no transcript {name}"
    numbers = {200: _SWEEP, 199: _SWEEP - 1, 39601: (_SWEEP - 1) ** 2}
    return re.sub(r"\b(200|199|39601)\b", lambda match: str(numbers[int(match[0])]), found[1])


def steps_of(block: str, prompt: str) -> Iterator[tuple[str, str]]:
    """Each line that is typed, and what comes then."""
    for part in block.split(prompt)[1:]:
        typed, _, answer = part.partition("\n")
        yield typed, answer.strip()


def test_the_sweep_of_the_docs_in_the_shell(pool: TestPool, user: Account, tmp_path: Path) -> None:
    environment = pool.base_environment() | {
        "HIVEMIND_GATEWAY": pool.address, "HIVEMIND_TOKEN": user.token, "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
    }  # fmt: skip
    job = "none yet"
    for typed, answer in steps_of(transcript("shell"), "$ "):
        words = shlex.split(_JOB.sub(job, typed))
        assert words[0] == "hivemind"
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        said = done.stdout or done.stderr.splitlines()[-1]
        found = _JOB.search(done.stdout)
        job = found[0] if found else job
        assert _JOB.sub("JOB", said.strip()) == _JOB.sub("JOB", answer)


def test_the_sweep_of_the_docs_in_python(
    pool: TestPool, user: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIVEMIND_GATEWAY", pool.address)
    monkeypatch.setenv("HIVEMIND_TOKEN", user.token)
    monkeypatch.setenv("HOME", str(tmp_path))
    names: dict[str, Any] = {"__name__": "__main__"}
    for typed, answer in steps_of(transcript("python"), ">>> "):
        said = io.StringIO()
        monkeypatch.setattr(sys, "displayhook", lambda value: value is None or print(repr(value), file=said))  # noqa: B023
        exec(compile(typed + "\n", "<stdin>", "single"), names)
        assert _JOB.sub("JOB", said.getvalue().strip()) == _JOB.sub("JOB", answer)
    names["pool"].close()
