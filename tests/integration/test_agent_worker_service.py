"""What an agent serves to its own owner, and to nobody else."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from nodepool.protocol import nodepool_pb2 as pb, nodepool_pb2_grpc as rpc
from tests.support.agent_stage import HELLO, WAITING, Stage, StageMaker
from tests.support.environment import free_port
from tests.support.scripted_gateway import ScriptedAttempt, package_of


@pytest.fixture
def owner_call(
    make_stage: StageMaker,
) -> Iterator[tuple[Stage, rpc.WorkerNodeServiceStub, tuple[tuple[str, str]]]]:
    port = free_port()
    stage = make_stage().start("--port", str(port))
    secret = stage.data_dir / "worker-secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield stage, rpc.WorkerNodeServiceStub(channel), (("authorization", f"Bearer {secret.read_text()}"),)


def test_its_owner_runs_a_zip_on_the_node(
    owner_call: tuple[Stage, rpc.WorkerNodeServiceStub, tuple[tuple[str, str]]],
) -> None:
    _, node, secret = owner_call
    answer = node.ExecuteTask(
        pb.ExecuteTaskRequest(task_id="mine", task_zip=package_of(HELLO)), metadata=secret, timeout=60
    )
    assert answer.success
    kept = ScriptedAttempt("mine:1", b"", result=answer.result)
    assert kept.result_text("task_logs.txt") == "hello\n"


def test_its_owner_asks_and_stops(
    owner_call: tuple[Stage, rpc.WorkerNodeServiceStub, tuple[tuple[str, str]]],
) -> None:
    stage, node, secret = owner_call
    attempt = stage.running("t:1", WAITING)
    asked = pb.RunningStatusRequest(task_id="t")
    assert node.ReportRunningStatus(asked, metadata=secret, timeout=60).success
    assert node.StopTaskExecution(
        pb.StopTaskExecutionRequest(task_id="t"), metadata=secret, timeout=60
    ).success
    assert stage.outcome(attempt) == "STOPPED"
    stage.wait(
        lambda: not node.ReportRunningStatus(asked, metadata=secret, timeout=60).success, "it is not there"
    )


@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer wrong"),)])
def test_nobody_else_is_answered(
    owner_call: tuple[Stage, rpc.WorkerNodeServiceStub, tuple[tuple[str, str]]],
    metadata: tuple[tuple[str, str], ...],
) -> None:
    _, node, _ = owner_call
    calls = [
        (node.ExecuteTask, pb.ExecuteTaskRequest(task_id="t", task_zip=package_of(HELLO))),
        (node.StopTaskExecution, pb.StopTaskExecutionRequest(task_id="t")),
        (node.ReportRunningStatus, pb.RunningStatusRequest(task_id="t")),
        (node.ReportOutput, pb.ReportOutputRequest(task_id="t")),
    ]
    for call, request in calls:
        with pytest.raises(grpc.RpcError) as refused:
            call(request, metadata=metadata, timeout=60)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_nothing_of_a_strangers_message_is_read(
    owner_call: tuple[Stage, rpc.WorkerNodeServiceStub, tuple[tuple[str, str]]],
) -> None:
    stage, node, _ = owner_call
    before = _peak_memory_bytes(stage.agent.pid)
    request = pb.ExecuteTaskRequest(task_id="t", task_zip=bytes(90 << 20))
    calls = [node.ExecuteTask.future(request, timeout=60) for _ in range(3)]
    assert {call.code() for call in calls} == {grpc.StatusCode.UNAUTHENTICATED}
    assert _peak_memory_bytes(stage.agent.pid) - before < 64 << 20


def _peak_memory_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) << 10


def test_the_service_listens_on_loopback_only(
    owner_call: tuple[Stage, rpc.WorkerNodeServiceStub, tuple[tuple[str, str]]],
) -> None:
    stage, _, _ = owner_call
    listening = [
        connection.laddr.ip.removeprefix("::ffff:")
        for connection in psutil.Process(stage.agent.pid).net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening == ["127.0.0.1"]
