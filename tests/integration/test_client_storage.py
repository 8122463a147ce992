"""What people and the operator see of the pool's storage, against a server that answers to order."""

from __future__ import annotations

import time
from pathlib import Path

import grpc

from nodepool.protocol import nodepool_pb2 as pb
from tests.support import command
from tests.support.command import Shell
from tests.support.scripted_server import Scripted

alice, environment, server, stranger = command.alice, command.environment, command.server, command.stranger
_GIB = 1 << 30


def _things(kind: str, count: int, size: int = 0) -> pb.KeptThings:
    return pb.KeptThings(kind=kind, count=count, bytes=size)


def test_tasks_are_deleted_one_by_one_and_those_that_cannot_be_are_named(
    server: Scripted, alice: Shell
) -> None:
    deleted = pb.StatusResponse(success=True, message="task t1 is deleted")
    server.answers("DeleteTask", deleted, grpc.StatusCode.FAILED_PRECONDITION, deleted)
    done = alice("rm", "t1", "t2", "t3", "t1", "--json")
    assert done.code == 6
    assert [(it["task_id"], it["deleted"]) for it in done.answer] == [
        ("t1", True), ("t2", False), ("t3", True),
    ]  # fmt: skip
    assert "task t1 is deleted" in alice("rm", "t1").err
    server.answers("DeleteTask", grpc.StatusCode.NOT_FOUND)
    assert alice("rm", "t1").code == 4
    assert alice("rm").code == 2


def test_the_operator_sees_what_is_kept_and_what_would_go(server: Scripted, alice: Shell) -> None:
    answer = pb.GetDiskUseResponse(
        result_days=30, log_days=30, task_days=0,
        kept=[_things("results", 1200, 3 * _GIB), _things("tasks", 7)],
        would_go=[_things("results", 11, _GIB)],
        users=[pb.UserStorage(username="bob\x1b[31m", stored_bytes=_GIB, tasks=5)],
        storage_free_bytes=_GIB, storage_total_bytes=4 * _GIB,
        database_bytes=5 << 20, database_reusable_bytes=1 << 20, broker_bytes=3 << 20,
    )  # fmt: skip
    server.answers("GetDiskUse", answer)
    shown = alice("admin", "disk")
    assert shown.code == 0
    for words in ("1.0 GiB free of 4.0 GiB", "5.0 MiB, 1.0 MiB of it free for new rows", "1,200", "3.0 GiB"):
        assert words in shown.out
    assert "WOULD GO" not in shown.out
    assert "\x1b" not in shown.out
    dry = alice("admin", "disk", "--dry-run")
    assert "results after 30 days, outputs after 30 days, tasks never" in dry.out
    told = alice("admin", "disk", "--dry-run", "--result-days", "7", "--json").answer
    assert told["would_go"] == [{"kind": "results", "count": 11, "bytes": _GIB}]
    assert "would_go" not in alice("admin", "disk", "--json").answer
    assert alice("admin", "disk", "--result-days", "7").code == 2


def test_status_says_how_long_a_result_stays_and_when_it_went(server: Scripted, alice: Shell) -> None:
    detail = pb.TaskDetail(
        state="SUCCEEDED", has_result=True, result_bytes=2048, result_until=time.time() + 86400 * 3 + 60
    )
    answer = pb.PollTaskStatusResponse(task_id="t", status="COMPLETED", detail=detail)
    server.answers("PollTaskStatus", answer)
    assert "2.0 KiB, removed in 3 d 0 h" in alice("status", "t").out
    gone = pb.TaskDetail(state="SUCCEEDED", result_removed_at=time.time() - 7260, output_removed=True)
    server.answers("PollTaskStatus", pb.PollTaskStatusResponse(task_id="t", status="COMPLETED", detail=gone))
    assert "removed 2 h 1 min ago" in alice("status", "t").out
    told = alice("status", "t", "--json").answer
    assert (told["has_result"], told["output_removed"]) == (False, True)


def test_a_submit_warns_before_the_storage_is_full(server: Scripted, alice: Shell, tmp_path: Path) -> None:
    program = tmp_path / "main.py"
    program.write_text("print(1)")
    accepted = pb.UploadTaskResponse(success=True, stored_bytes=85 << 20, stored_bytes_limit=100 << 20)
    server.answers("UploadTask", accepted)
    assert "85 of the 100 MiB" in alice("submit", str(program)).err
    accepted.stored_bytes = 10 << 20
    server.answers("UploadTask", accepted)
    assert "MiB" not in alice("submit", str(program)).err
