"""Clients and agents with several gateways: real servers and lines, of which some are away."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from hivemind import Endpoint, NodePoolClient, OutputEvent, RetryPolicy
from hivemind.errors import UnreachableError
from nodepool import gateway_lines
from nodepool.domain import gateway_choice
from nodepool.protocol import nodepool_pb2 as pb
from tests.support.certificates import Authority
from tests.support.scripted_server import Scripted, in_chunks, output, state, token_of
from tests.support.tasks import package
from tests.support.waiting import wait_until
from worker_agent.gateway_client import GatewayClient, GatewayOptions

TOKEN = token_of("alice", exp=4_000_000_000)
QUICK = RetryPolicy(patience_seconds=30, first_delay_seconds=0.01, max_delay_seconds=0.05)
ACCEPTED = pb.UploadTaskResponse(success=True)


@pytest.fixture
def both() -> Iterator[tuple[Scripted, Scripted]]:
    first, second = Scripted(), Scripted()
    for server in (first, second):
        server.start()
        server.answers("GetNodeList", pb.GetNodeListResponse(success=True))
        server.answers("UploadTask", ACCEPTED)
    yield first, second
    first.stop()
    second.stop()


@pytest.fixture
def client(both: tuple[Scripted, Scripted], in_order: None) -> Iterator[NodePoolClient]:
    with NodePoolClient(addresses(*both), token=TOKEN, retry=QUICK) as opened:
        yield opened


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chance begins with the first of the list."""
    monkeypatch.setattr(gateway_lines.random, "sample", lambda values, _count: list(values))


def addresses(*servers: Scripted) -> str:
    return ",".join(server.address for server in servers)


def asked(server: Scripted, method: str = "GetNodeList") -> int:
    return len(server.asked.get(method, ()))


def test_what_cannot_be_reached_is_left_for_the_next_and_the_next_is_kept(
    both: tuple[Scripted, Scripted], client: NodePoolClient
) -> None:
    first, second = both
    client.nodes()
    first.stop()
    client.nodes()
    first.start()
    client.nodes()
    assert (asked(first), asked(second)) == (1, 2)


def test_what_says_that_it_does_not_serve_is_left_for_the_next(
    both: tuple[Scripted, Scripted], client: NodePoolClient
) -> None:
    first, second = both
    first.answers("GetNodeList", grpc.StatusCode.UNAVAILABLE)
    client.nodes()
    client.nodes()
    assert (asked(first), asked(second)) == (1, 2)


def test_what_does_not_answer_is_left_for_the_next(both: tuple[Scripted, Scripted], in_order: None) -> None:
    first, second = both
    free = threading.Event()
    first.on("GetNodeList", lambda *_: free.wait(60) and pb.GetNodeListResponse())
    with NodePoolClient(addresses(first, second), token=TOKEN, retry=QUICK, deadline_seconds=1) as client:
        client.nodes()
    free.set()
    assert (asked(first), asked(second)) == (1, 1)


def test_a_refusal_is_an_answer(both: tuple[Scripted, Scripted], client: NodePoolClient) -> None:
    first, second = both
    first.answers("GetNodeList", grpc.StatusCode.PERMISSION_DENIED)
    with pytest.raises(Exception, match="PERMISSION_DENIED"):
        client.nodes()
    assert (asked(first), asked(second)) == (1, 0)


def test_not_all_begin_with_the_first(both: tuple[Scripted, Scripted]) -> None:
    first, second = both
    for _ in range(24):  # that chance chooses one of two each time is as likely as a broken test
        with NodePoolClient(addresses(*both), token=TOKEN, retry=QUICK) as client:
            client.nodes()
    assert asked(first)
    assert asked(second)


def test_the_others_are_looked_at_again_later(
    both: tuple[Scripted, Scripted], client: NodePoolClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = both
    monkeypatch.setattr(gateway_choice, "LOOK_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(gateway_lines, "random", random.Random(1))
    first.answers("GetNodeList", grpc.StatusCode.UNAVAILABLE, pb.GetNodeListResponse(success=True))

    def again() -> bool:
        client.nodes()
        if asked(first) == 1:
            second.answers("GetNodeList", grpc.StatusCode.UNAVAILABLE, pb.GetNodeListResponse(success=True))
        return asked(first) > 1

    wait_until(again, "the first is asked again")


def test_a_task_is_sent_for_as_long_as_said_and_keeps_its_id(
    both: tuple[Scripted, Scripted], in_order: None, tmp_path: Path
) -> None:
    first, second = both
    (tmp_path / "main.py").write_text("print(1)")
    told: list[tuple[str, float]] = []
    first.answers("UploadTask", grpc.StatusCode.UNAVAILABLE)
    second.answers("UploadTask", *[grpc.StatusCode.UNAVAILABLE] * 3, ACCEPTED)
    with NodePoolClient(
        addresses(*both), token=TOKEN, retry=QUICK, on_wait=lambda *words: told.append(words)
    ) as client:
        sent = client.submit(tmp_path)
    requests = [*first.asked["UploadTask"], *second.asked["UploadTask"]]
    assert len(requests) == 8
    assert {(it.task_id, it.package_sha256) for it in requests} == {
        (sent.task_id, requests[0].package_sha256)
    }
    assert len(told) == 1
    assert told[0][1] == pytest.approx(30, abs=1)


def test_who_is_not_patient_hears_at_once(both: tuple[Scripted, Scripted], in_order: None) -> None:
    first, second = both
    for server in both:
        server.answers("GetNodeList", grpc.StatusCode.UNAVAILABLE)
    hasty = RetryPolicy(patience_seconds=0)
    with (
        NodePoolClient(addresses(*both), token=TOKEN, retry=hasty) as client,
        pytest.raises(UnreachableError),
    ):
        client.nodes()
    assert (asked(first), asked(second)) == (1, 1)


def test_output_goes_on_at_the_next_gateway_without_a_gap_or_a_line_twice(
    both: tuple[Scripted, Scripted], client: NodePoolClient
) -> None:
    first, second = both
    lines = [b"line %d\n" % number for number in range(20)]
    whole = b"".join(lines)
    cut = threading.Event()

    def at_first(_request: Any, context: grpc.ServicerContext) -> Iterator[pb.WatchTaskResponse]:
        yield state("RUNNING", attempt_number=1)
        yield output(1, 0, whole[:50])
        stopped = threading.Event()
        context.add_callback(stopped.set)
        cut.set()
        stopped.wait(60)

    def at_second(request: Any, _context: grpc.ServicerContext) -> Iterator[pb.WatchTaskResponse]:
        yield state("RUNNING", attempt_number=1)
        begin = max(0, request.output_offset - 7)  # what was said before may be said again
        yield output(1, begin, whole[begin:])
        yield state("SUCCEEDED", attempt_number=1)

    first.on("WatchTask", at_first)
    second.on("WatchTask", at_second)
    killing = threading.Thread(target=lambda: (cut.wait(60), first.stop()))
    killing.start()
    events = list(client.watch("t"))
    killing.join(30)
    assert b"".join(event.data for event in events if isinstance(event, OutputEvent)) == whole
    assert len(events) == 4


def test_a_result_begins_again_at_the_next_gateway(
    both: tuple[Scripted, Scripted], client: NodePoolClient, tmp_path: Path
) -> None:
    first, second = both
    data = package({"result.txt": "x" * 5000})

    def breaks_off(_request: Any, context: grpc.ServicerContext) -> Iterator[pb.DownloadResultResponse]:
        yield pb.DownloadResultResponse(total_bytes=len(data), chunk=data[:100])
        context.abort(grpc.StatusCode.UNAVAILABLE, "killed")

    first.on("DownloadResult", breaks_off)
    second.on("DownloadResult", lambda *_: in_chunks(data))
    client.result("t", tmp_path / "result.zip")
    assert (tmp_path / "result.zip").read_bytes() == data
    assert [file.name for file in tmp_path.iterdir()] == ["result.zip"]


def test_each_gateway_has_a_certificate_of_its_own(tmp_path: Path, in_order: None) -> None:
    """One target with several addresses would ask the second for the certificate of the first."""
    authority = Authority(tmp_path, "authority")
    servers = []
    for host in ("localhost", "127.0.0.1"):
        server = Scripted()
        pem = authority.sign(host, host).read_bytes()
        server.start(grpc.ssl_server_credentials([(pem, pem)]))
        server.answers("GetNodeList", pb.GetNodeListResponse(success=True))
        servers.append(server)
    first, second = servers
    endpoint = Endpoint(
        address=f"localhost:{first.port},127.0.0.1:{second.port}", tls=True, ca_file=str(authority.file)
    )
    with NodePoolClient(endpoint, token=TOKEN, retry=QUICK) as client:
        client.nodes()
        first.stop()
        client.nodes()
    second.stop()
    assert (asked(first), asked(second)) == (1, 1)


def test_a_wrong_certificate_is_told_at_once(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path, "authority"), Authority(tmp_path, "other")
    server = Scripted()
    pem = authority.sign("localhost", "localhost").read_bytes()
    server.start(grpc.ssl_server_credentials([(pem, pem)]))
    endpoint = Endpoint(address=f"localhost:{server.port}", tls=True, ca_file=str(other.file))
    patient = RetryPolicy(patience_seconds=3600)
    with (
        NodePoolClient(endpoint, token=TOKEN, retry=patient) as client,
        pytest.raises(UnreachableError, match=r"(?i)certificate"),
    ):
        client.nodes()
    server.stop()


# -- agents ----------------------------------------------------------------------------------------


@pytest.fixture
def agent(both: tuple[Scripted, Scripted], in_order: None) -> Iterator[GatewayClient]:
    first, second = both
    for server in both:
        server.answers("Login", pb.LoginResponse(success=True, token=TOKEN))
    made = GatewayClient(
        GatewayOptions(addresses=(first.address, second.address), username="ada", password="secret")
    )
    yield made
    made.close()


def test_an_agent_claims_at_the_next_gateway_at_once(
    both: tuple[Scripted, Scripted], agent: GatewayClient
) -> None:
    first, second = both
    agent.log_in()
    first.stop()
    spec = pb.ClaimAttemptResponse(spec=pb.AttemptSpec(attempt_id="t:1"))
    second.on("ClaimAttempt", lambda *_: iter([spec]))
    got, _ = agent.claim(pb.ClaimAttemptRequest(attempt_id="t:1"), lambda *_: None, lambda: False)
    assert got.attempt_id == "t:1"


def test_an_agent_sends_a_result_again_to_the_next_gateway(
    both: tuple[Scripted, Scripted], agent: GatewayClient, tmp_path: Path
) -> None:
    first, second = both
    result = tmp_path / "result.zip"
    result.write_bytes(b"x" * (1 << 20))

    def dies(requests: Any, context: grpc.ServicerContext) -> None:
        next(iter(requests))
        context.abort(grpc.StatusCode.UNAVAILABLE, "killed")

    def takes(requests: Any, _context: grpc.ServicerContext) -> pb.FinishAttemptResponse:
        got.append(b"".join(request.result_chunk for request in requests))
        return pb.FinishAttemptResponse()

    got: list[bytes] = []
    first.on("FinishAttempt", dies)
    second.on("FinishAttempt", takes)
    agent.finish(pb.AttemptEnd(attempt_id="t:1"), result, lambda: False)
    assert got == [result.read_bytes()]


def test_an_agents_one_try_is_one_at_each_gateway(
    both: tuple[Scripted, Scripted], agent: GatewayClient
) -> None:
    first, second = both
    agent.log_in()
    first.stop()
    second.answers("ReportAgent", pb.ReportAgentResponse(heard=True))
    assert agent.report(pb.ReportAgentRequest(node_id="ada/n")).heard
