"""Ids that nobody would choose, in every call that takes one, with both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc
import pytest

from nodepool.protocol import nodepool_pb2 as pb
from tests.support import postgres
from tests.support.accounts import Account
from tests.support.hostile import refused
from tests.support.pool import PoolFactory, TestPool
from tests.support.tasks import script

ODD_IDS = {
    "empty": "",
    "a NUL": "a\0b",
    "very long": "x" * 100_000,
    "very long and not ASCII": "\N{CJK UNIFIED IDEOGRAPH-4E9E}" * 10_000,
    "a lone accent": "\N{COMBINING ACUTE ACCENT}",
    "escape codes": "\x1b[2J\x07",
    "a path": "../../../etc/passwd",
    "SQL": "x' OR '1'='1",
    "a pattern": "%",
    "line breaks": "a\r\nb: c\n",
}
FINE = {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED}
Call = Callable[[Account, str], object]


def _attempt(user: Account, word: str) -> list[object]:
    """A call's messages that name this word as node and attempt."""
    return list(
        user.stubs.nodes.ClaimAttempt(
            pb.ClaimAttemptRequest(node_id=word, attempt_id=word), metadata=user.metadata
        )
    )


CALLS: dict[str, Call] = {
    "PollTaskStatus": lambda user, word: user.poll(word),
    "GetTaskResult": lambda user, word: user.result(word),
    "StopTask": lambda user, word: user.stop(word),
    "UploadTask": lambda user, word: user.stubs.tasks.UploadTask(
        pb.UploadTaskRequest(task_id=word, task_zip=script("")), metadata=user.metadata
    ),
    "UploadTask's location": lambda user, word: user.stubs.tasks.UploadTask(
        pb.UploadTaskRequest(task_id="task", task_zip=script(""), location=f"no {word}"),
        metadata=user.metadata,
    ),
    "UploadTask's image": lambda user, word: user.stubs.tasks.UploadTask(
        pb.UploadTaskRequest(task_id="task", task_zip=script(""), image=f"no {word}"),
        metadata=user.metadata,
    ),
    "DownloadResult": lambda user, word: user.stubs.tasks.DownloadResult(
        pb.DownloadResultRequest(task_id=word), metadata=user.metadata
    ),
    "WatchTask": lambda user, word: user.stubs.tasks.WatchTask(
        pb.WatchTaskRequest(task_id=word), metadata=user.metadata
    ),
    "StoreLogs": lambda user, word: user.stubs.tasks.StoreLogs(
        pb.StoreLogsRequest(task_id=word, node_id=word), metadata=user.metadata
    ),
    "TaskCompleted": lambda user, word: user.stubs.tasks.TaskCompleted(
        pb.TaskCompletedRequest(task_id=word, node_id=word), metadata=user.metadata
    ),
    "ReportRunningStatus": lambda user, word: user.stubs.workers.ReportRunningStatus(
        pb.RunningStatusRequest(task_id=word, node_id=word), metadata=user.metadata
    ),
    "ExecuteTask": lambda user, word: user.stubs.workers.ExecuteTask(
        pb.ExecuteTaskRequest(task_id="task", node_id=word, task_zip=script("")), metadata=user.metadata
    ),
    "ReportStatus": lambda user, word: user.stubs.nodes.ReportStatus(
        pb.ReportStatusRequest(node_id=word), metadata=user.metadata
    ),
    "EnrollAgent": lambda user, word: user.stubs.nodes.EnrollAgent(
        pb.EnrollAgentRequest(node_id=word), metadata=user.metadata
    ),
    "DeregisterNode": lambda user, word: user.stubs.nodes.DeregisterNode(
        pb.DeregisterNodeRequest(node_id=word), metadata=user.metadata
    ),
    "ClaimAttempt": _attempt,
    "AppendOutput": lambda user, word: user.stubs.nodes.AppendOutput(
        pb.AppendOutputRequest(node_id=word, attempt_id=word, data=b"x"), metadata=user.metadata
    ),
    "FinishAttempt": lambda user, word: user.stubs.nodes.FinishAttempt(
        iter([pb.FinishAttemptRequest(end=pb.AttemptEnd(node_id=word, attempt_id=word, outcome=1))]),
        metadata=user.metadata,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def pool(request: pytest.FixtureRequest, pool_factory: PoolFactory) -> Iterator[TestPool]:
    if request.param == "sqlite":
        yield pool_factory(agents=0)
        return
    with postgres.fresh_database() as url:
        pool = pool_factory(agents=0, database_url=url)
        yield pool
        pool.close()


@pytest.fixture(scope="module")
def user(pool: TestPool) -> Account:
    return pool.register_user()


@pytest.mark.parametrize("name", CALLS)
def test_an_odd_id_is_refused_with_words_that_reach_the_caller(user: Account, name: str) -> None:
    for what, word in ODD_IDS.items():
        code, message = refused(lambda: CALLS[name](user, word))  # noqa: B023
        assert code in FINE, f"{what}: {code} {message}"
        assert message, what
        assert "\x1b" not in message, what
