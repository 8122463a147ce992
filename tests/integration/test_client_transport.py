"""The client against a real gRPC server that answers what each test tells it to."""

from __future__ import annotations

import io
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hivemind import (
    ClientError,
    Endpoint,
    ExistsError,
    MissingError,
    NodePoolClient,
    NotLoggedInError,
    NotYetError,
    OutputEvent,
    Position,
    RefusedError,
    RetryPolicy,
    StateEvent,
    TaskNeeds,
    TaskState,
    TimedOutError,
    UnreachableError,
)
from hivemind.channel import STATUS_TO_ERROR
from hivemind.uploading import STREAM_ABOVE_BYTES, new_task_id
from nodepool.protocol import nodepool_pb2 as pb
from tests.support.scripted_server import Scripted, in_chunks, output, state, token_of
from tests.support.tasks import package

QUICK = RetryPolicy(attempts=5, first_delay_seconds=0.001, max_delay_seconds=0.01)
TOKEN = token_of("alice", exp=4_000_000_000)


@pytest.fixture
def server() -> Iterator[Scripted]:
    scripted = Scripted()
    scripted.start()
    yield scripted
    scripted.stop()


@pytest.fixture
def alice(server: Scripted) -> Iterator[NodePoolClient]:
    with NodePoolClient(server.address, token=TOKEN, retry=QUICK, deadline_seconds=20) as opened:
        yield opened


@pytest.fixture
def task(tmp_path: Path) -> Path:
    folder = tmp_path / "task"
    folder.mkdir()
    (folder / "main.py").write_text("print('hello')")
    return folder


# -- calls ------------------------------------------------------------------------------------------


def test_the_token_goes_with_every_call(server: Scripted, alice: NodePoolClient) -> None:
    server.answers("PollTaskStatus", pb.PollTaskStatusResponse(task_id="t", status="PENDING"))
    alice.status("t")
    assert server.metadata["PollTaskStatus"][0]["authorization"] == f"Bearer {TOKEN}"


def test_a_question_is_repeated_while_the_pool_is_away(server: Scripted, alice: NodePoolClient) -> None:
    away = grpc.StatusCode.UNAVAILABLE
    answer = pb.PollTaskStatusResponse(task_id="t", status="COMPLETED", message="done")
    server.answers("PollTaskStatus", away, away, away, away, answer)
    info = alice.status("t")
    assert (info.state, info.status, info.reason) == (TaskState.SUCCEEDED, "COMPLETED", "done")
    assert len(server.asked["PollTaskStatus"]) == 5


def test_repeats_end(server: Scripted, alice: NodePoolClient) -> None:
    server.answers("PollTaskStatus", grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(UnreachableError, match="the server says UNAVAILABLE"):
        alice.status("t")
    assert len(server.asked["PollTaskStatus"]) == QUICK.attempts


def test_a_name_that_is_taken_by_an_unanswered_try_is_ones_own(
    server: Scripted, alice: NodePoolClient
) -> None:
    away, taken = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ALREADY_EXISTS
    server.answers("Register", away, taken)
    server.answers("Login", pb.LoginResponse(success=True, token=TOKEN))
    alice.register("bob", "password")
    assert [request.password for request in server.asked["Login"]] == ["password"]
    server.answers("Login", pb.LoginResponse(success=False))
    server.answers("Register", away, taken)
    with pytest.raises(ExistsError):
        alice.register("bob", "password of another bob")
    asked = len(server.asked["Login"])
    with pytest.raises(ExistsError):  # the first answer says so: nobody tries a password
        alice.register("bob", "password")
    assert len(server.asked["Login"]) == asked


def test_a_register_that_is_never_answered_says_that_the_account_may_be_there(
    server: Scripted, alice: NodePoolClient
) -> None:
    server.answers("Register", grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(UnreachableError) as caught:
        alice.register("bob", "password")
    assert caught.value.hint == "the account may be there all the same: `hivemind login bob` tells"


def test_a_password_that_an_unanswered_try_changed_is_changed(
    server: Scripted, alice: NodePoolClient
) -> None:
    fresh = token_of("alice", exp=4102444800)
    server.answers("ChangePassword", grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED)
    server.answers("Login", pb.LoginResponse(success=True, token=fresh))
    alice.change_password("old", "new")
    assert (alice.token, server.asked["Login"][0].password) == (fresh, "new")
    server.answers("Login", pb.LoginResponse(success=False))
    server.answers("ChangePassword", grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED)
    with pytest.raises(NotLoggedInError):
        alice.change_password("a wrong one", "new")


def test_a_task_that_an_unanswered_try_deleted_is_deleted(server: Scripted, alice: NodePoolClient) -> None:
    server.answers("DeleteTask", grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND)
    assert alice.delete("t") == "task t is deleted"
    with pytest.raises(MissingError):
        alice.delete("t")


def test_a_transfer_is_repeated_under_its_own_id(server: Scripted, alice: NodePoolClient) -> None:
    server.answers("Transfer", grpc.StatusCode.UNAVAILABLE, pb.TransferResponse(success=True, balance=4))
    done = alice.transfer("bob", 3)
    first, second = server.asked["Transfer"]
    assert first.transfer_id == second.transfer_id == done.transfer_id != ""
    assert (done.balance, first.receiver_username, first.amount) == (4, "bob", 3)


@pytest.mark.parametrize("code", [code for code in STATUS_TO_ERROR if code.name != "DEADLINE_EXCEEDED"])
def test_every_status_becomes_its_error_with_the_pools_words(
    server: Scripted, alice: NodePoolClient, code: grpc.StatusCode
) -> None:
    server.answers("PollTaskStatus", code)
    with pytest.raises(ClientError, match=f"the server says {code.name}") as caught:
        alice.status("t")
    assert type(caught.value) is STATUS_TO_ERROR[code]


def test_a_pool_that_does_not_answer_in_time(server: Scripted) -> None:
    release = threading.Event()
    server.on("GetAllTasks", lambda *_: (release.wait(60), pb.GetAllTasksResponse(success=True))[1])
    with NodePoolClient(server.address, token=TOKEN, retry=QUICK, deadline_seconds=0.2) as slow:
        with pytest.raises(TimedOutError, match="did not answer in time"):
            slow.list()
        release.set()
    assert len(server.asked["GetAllTasks"]) == 1


def test_a_pool_that_is_not_there(server: Scripted, alice: NodePoolClient) -> None:
    server.stop()
    with pytest.raises(UnreachableError, match=f"the pool at {server.address} cannot be reached"):
        alice.nodes()


def test_a_wrong_password_is_an_answer_and_still_an_error(server: Scripted) -> None:
    server.answers("Login", pb.LoginResponse(success=False, message="wrong user name or password"))
    with (
        NodePoolClient(server.address, retry=QUICK) as client,
        pytest.raises(NotLoggedInError, match="wrong user name"),
    ):
        client.login("alice", "nonsense")


def test_an_old_token_does_not_stand_in_the_way_of_a_new_one(server: Scripted, alice: NodePoolClient) -> None:
    server.answers("Login", pb.LoginResponse(success=True, token=TOKEN))
    alice.login("alice", "password")
    assert "authorization" not in server.metadata["Login"][0]


def test_a_login_is_used_by_the_calls_after_it(server: Scripted) -> None:
    server.answers("Login", pb.LoginResponse(success=True, token=TOKEN))
    server.answers("RefreshToken", pb.RefreshTokenResponse(success=True, token=token_of("alice", exp=5e9)))
    server.answers("GetBalance", pb.GetBalanceResponse(success=True, balance=7))
    with NodePoolClient(server.address, retry=QUICK) as client:
        assert client.login("alice", "password").username == "alice"
        assert client.refresh().expires_at == 5e9
        assert client.balance().balance == 7
        assert server.asked["GetBalance"][0].username == "alice"
        assert server.metadata["GetBalance"][0]["authorization"] == f"Bearer {client.token}"


def test_without_a_token_nothing_is_asked(server: Scripted, task: Path) -> None:
    with NodePoolClient(server.address, retry=QUICK) as stranger:
        calls: list[Callable[[], object]] = [
            stranger.list,
            stranger.whoami,
            stranger.balance,
            stranger.refresh,
            lambda: stranger.submit(task),
            lambda: stranger.stop("t"),
            lambda: stranger.logs("t"),
            lambda: stranger.transfer("bob", 1),
            lambda: stranger.drain("n"),
        ]
        for call in calls:
            with pytest.raises(NotLoggedInError):
                call()
    assert server.asked == {}


# -- TLS --------------------------------------------------------------------------------------------


def certificate(folder: Path, name: str) -> tuple[Path, bytes, bytes]:
    """A certificate for `name` that signs itself: its file, itself and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain = signed.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / f"{name}.pem"
    path.write_bytes(chain)
    return path, chain, private


def test_a_gateway_is_trusted_by_its_certificate_only(tmp_path: Path) -> None:
    trusted, chain, key = certificate(tmp_path, "localhost")
    other, _, _ = certificate(tmp_path, "other.example")
    server = Scripted()
    server.start(grpc.ssl_server_credentials([(key, chain)]))
    try:
        server.answers("GetNodeList", pb.GetNodeListResponse(success=True))
        address = f"localhost:{server.port}"
        with NodePoolClient(Endpoint(address=address, tls=True, ca_file=str(trusted)), retry=QUICK) as client:
            assert client.nodes() == ()
        for endpoint in (
            Endpoint(address=address, tls=True, ca_file=str(other)),
            Endpoint(address=address, tls=True),
            Endpoint(address=address),
        ):
            with (
                NodePoolClient(endpoint, token=TOKEN, retry=QUICK) as client,
                pytest.raises(UnreachableError),
            ):
                client.nodes()
        assert len(server.asked["GetNodeList"]) == 1
    finally:
        server.stop()


# -- uploads ----------------------------------------------------------------------------------------


def test_a_repeated_upload_is_byte_for_byte_the_same(
    server: Scripted, alice: NodePoolClient, task: Path
) -> None:
    server.answers(
        "UploadTask",
        grpc.StatusCode.UNAVAILABLE,
        pb.UploadTaskResponse(success=True, message="accepted", repeated_upload=True),
    )
    seen: list[tuple[int, int]] = []
    needs = TaskNeeds(memory_gb=2, cpu_score=300, location="Asia", image="python:3.12-slim", max_minutes=5)
    sent = alice.submit(task, needs, progress=lambda done, total: seen.append((done, total)))
    first, second = server.asked["UploadTask"]
    assert first == second
    assert (first.task_id, first.memory_gb, first.location) == (sent.task_id, 2, "Asia")
    assert zipfile.ZipFile(io.BytesIO(first.task_zip)).namelist() == ["main.py"]
    assert sent.repeated
    assert seen == [(0, sent.package_bytes), (sent.package_bytes, sent.package_bytes)]


def test_a_large_package_is_streamed_and_a_cut_stream_is_sent_again_whole(
    server: Scripted, alice: NodePoolClient, task: Path
) -> None:
    (task / "noise.bin").write_bytes(os.urandom(STREAM_ABOVE_BYTES + 1000))
    calls = []

    def handler(requests: Any, context: grpc.ServicerContext) -> pb.UploadTaskResponse:
        calls.append(1)
        for number, _ in enumerate(requests):
            if len(calls) == 1 and number == 5:
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        return pb.UploadTaskResponse(success=True)

    server.on("UploadTaskStream", handler)
    seen: list[tuple[int, int]] = []
    sent = alice.submit(task, task_id="big", progress=lambda *pair: seen.append(pair))
    messages = server.asked["UploadTaskStream"][1].seen
    assert messages[0].task.task_id == "big"
    assert messages[0].task.task_zip == b""
    data = b"".join(message.zip_chunk for message in messages[1:])
    assert len(data) == sent.package_bytes > STREAM_ABOVE_BYTES
    assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None
    assert seen[0] == (0, len(data))
    assert seen[-1] == (len(data), len(data))
    assert server.asked.get("UploadTask") is None


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        ({"memory_gb": -1}, "memory_gb must be 0 or more"),
        ({"location": "Atlantis"}, "no region is called"),
        ({"max_minutes": -5}, "max_minutes"),
        ({"cpu_score": 10**9}, "at most"),
        ({"priority": 10}, "priority must be 0 to 9, not 10"),
        ({"priority": -1}, "priority must be 0 to 9"),
        ({"min_trust": "highest"}, "min_trust must be one of high, normal, low"),
        ({"location_mode": "near"}, "location_mode must be one of strict, prefer"),
        ({"replicas": 6}, "replicas must be 1 to 5"),
        ({"compare_outputs": ("../x",)}, "compare_outputs names files of the result"),
        ({"gpu_name": "R\nTX"}, "printable"),
    ],
)
def test_needs_that_make_no_sense_are_refused_before_sending(needs: dict[str, Any], words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        TaskNeeds(**needs)


def test_a_task_id_that_is_none_is_refused_before_sending(
    server: Scripted, alice: NodePoolClient, task: Path
) -> None:
    with pytest.raises(RefusedError, match="task_id must be"):
        alice.submit(task, task_id="../etc")
    assert server.asked == {}


def test_a_taken_task_id_is_told(server: Scripted, alice: NodePoolClient, task: Path) -> None:
    server.answers("UploadTask", grpc.StatusCode.ALREADY_EXISTS)
    with pytest.raises(ExistsError):
        alice.submit(task, task_id="mine")


def test_made_up_task_ids_differ() -> None:
    assert len({new_task_id() for _ in range(100)}) == 100


# -- watching ---------------------------------------------------------------------------------------


def test_a_watch_goes_on_where_it_was_cut_off(server: Scripted, alice: NodePoolClient) -> None:
    calls = []

    def handler(_request: Any, context: grpc.ServicerContext) -> Iterator[pb.WatchTaskResponse]:
        calls.append(1)
        if len(calls) == 1:
            yield state("QUEUED")
            yield state("RUNNING")
            yield output(1, 0, b"abc")
            context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        if len(calls) == 2:
            return  # a clean end that says nothing is no end of the task
        yield state("RUNNING")
        yield output(1, 1, b"bcdef")
        yield state("SUCCEEDED", exit_code=0, has_exit_code=True)
        yield output(1, 6, b"gh")

    server.on("WatchTask", handler)
    events = list(alice.watch("t"))
    assert [event.task.state for event in events if isinstance(event, StateEvent)] == [
        "QUEUED",
        "RUNNING",
        "SUCCEEDED",
    ]
    assert b"".join(event.data for event in events if isinstance(event, OutputEvent)) == b"abcdefgh"
    assert [(r.output_offset, r.attempt_number) for r in server.asked["WatchTask"]] == [
        (0, 0),
        (3, 1),
        (3, 1),
    ]


def test_a_watch_survives_a_gateway_that_is_started_anew(server: Scripted, alice: NodePoolClient) -> None:
    first = threading.Event()

    def handler(request: Any, context: grpc.ServicerContext) -> Iterator[pb.WatchTaskResponse]:
        yield state("RUNNING")
        if request.output_offset == 0:
            yield output(1, 0, b"before ")
            stopped = threading.Event()
            context.add_callback(stopped.set)
            first.set()
            stopped.wait(60)
            return
        yield output(1, request.output_offset, b"after")
        yield state("SUCCEEDED")

    server.on("WatchTask", handler)

    def restart() -> None:
        assert first.wait(60)
        server.stop()
        server.start()

    restarting = threading.Thread(target=restart)
    restarting.start()
    patient = RetryPolicy(attempts=30, first_delay_seconds=0.05, max_delay_seconds=0.2)
    with NodePoolClient(server.address, token=TOKEN, retry=patient) as client:
        events = list(client.watch("t"))
    restarting.join(30)
    assert b"".join(event.data for event in events if isinstance(event, OutputEvent)) == b"before after"


def test_a_watch_of_a_pool_that_stays_away_ends(server: Scripted, alice: NodePoolClient) -> None:
    calls = []

    def handler(_request: Any, context: grpc.ServicerContext) -> Iterator[pb.WatchTaskResponse]:
        calls.append(1)
        if len(calls) == 1:
            yield state("RUNNING")
        context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    server.on("WatchTask", handler)
    with pytest.raises(UnreachableError, match="gone"):
        list(alice.watch("t"))
    assert len(calls) == QUICK.attempts


def test_a_watch_that_saw_nothing_gives_up_soon(server: Scripted, alice: NodePoolClient) -> None:
    def away(_request: Any, context: grpc.ServicerContext) -> Iterator[pb.WatchTaskResponse]:
        context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        yield

    server.on("WatchTask", away)
    with pytest.raises(UnreachableError):
        list(alice.watch("t"))
    assert len(server.asked["WatchTask"]) == QUICK.attempts


def test_a_refused_watch_is_not_repeated(server: Scripted, alice: NodePoolClient) -> None:
    def missing(_request: Any, context: grpc.ServicerContext) -> Iterator[pb.WatchTaskResponse]:
        context.abort(grpc.StatusCode.NOT_FOUND, "there is no task t")
        yield

    server.on("WatchTask", missing)
    with pytest.raises(MissingError, match="there is no task t"):
        list(alice.watch("t"))
    assert len(server.asked["WatchTask"]) == 1


def test_a_watch_that_is_left_is_ended_at_the_server(server: Scripted, alice: NodePoolClient) -> None:
    left = threading.Event()

    def handler(_request: Any, context: grpc.ServicerContext) -> Iterator[pb.WatchTaskResponse]:
        context.add_callback(left.set)
        yield state("RUNNING")
        left.wait(60)

    server.on("WatchTask", handler)
    events = alice.watch("t")
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert left.wait(60)


def test_waiting_ends_when_its_time_is_over(server: Scripted, alice: NodePoolClient) -> None:
    def handler(_request: Any, context: grpc.ServicerContext) -> Iterator[pb.WatchTaskResponse]:
        yield state("RUNNING")
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait(60)

    server.on("WatchTask", handler)
    with pytest.raises(NotYetError, match="has not ended in time"):
        alice.wait("t", timeout_seconds=0.3)


def test_waiting_answers_how_it_ended(server: Scripted, alice: NodePoolClient) -> None:
    server.on(
        "WatchTask", lambda *_: iter([state("RUNNING"), state("FAILED", exit_code=3, has_exit_code=True)])
    )
    info = alice.wait("t")
    assert (info.state, info.exit_code, info.status) == (TaskState.FAILED, 3, "FAILED")


def test_a_state_of_a_later_version_is_told_and_not_guessed(server: Scripted, alice: NodePoolClient) -> None:
    server.on("WatchTask", lambda *_: iter([state("DREAMING")]))
    with pytest.raises(ClientError, match="DREAMING"):
        list(alice.watch("t"))


def test_a_watch_goes_on_from_a_kept_position(server: Scripted, alice: NodePoolClient) -> None:
    server.on("WatchTask", lambda *_: iter([output(2, 10, b"rest"), state("SUCCEEDED")]))
    events = list(alice.watch("t", Position(attempt_number=2, offset=10)))
    assert events[0] == OutputEvent(attempt_number=2, offset=10, data=b"rest")
    assert server.asked["WatchTask"][0].output_offset == 10


# -- results ----------------------------------------------------------------------------------------

RESULT = package({"out/a.txt": "a" * 1000, "execution_log.txt": "ok"})


def test_a_cut_download_begins_again_and_arrives_whole(
    server: Scripted, alice: NodePoolClient, tmp_path: Path
) -> None:
    calls = []

    def handler(_request: Any, context: grpc.ServicerContext) -> Iterator[pb.DownloadResultResponse]:
        calls.append(1)
        for number, answer in enumerate(in_chunks(RESULT)):
            yield answer
            if len(calls) == 1 and number == 1:
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            if len(calls) == 2 and number == 1:
                return

    server.on("DownloadResult", handler)
    seen: list[tuple[int, int]] = []
    kept = alice.result("t", tmp_path / "sub" / "r.zip", progress=lambda *pair: seen.append(pair))
    assert kept.path.read_bytes() == RESULT
    assert kept.result_bytes == len(RESULT)
    assert seen[-1] == (len(RESULT), len(RESULT))
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["r.zip"]
    assert len(calls) == 3


def test_a_result_is_unpacked(server: Scripted, alice: NodePoolClient, tmp_path: Path) -> None:
    server.on("DownloadResult", lambda *_: in_chunks(RESULT))
    kept = alice.result("t", tmp_path / "out", unpack=True)
    assert kept.files == ("execution_log.txt", "out/a.txt")
    assert (tmp_path / "out" / "out" / "a.txt").read_text() == "a" * 1000
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_download_that_never_arrives_leaves_nothing(
    server: Scripted, alice: NodePoolClient, tmp_path: Path
) -> None:
    def cut(_request: Any, context: grpc.ServicerContext) -> Iterator[pb.DownloadResultResponse]:
        yield next(in_chunks(RESULT))
        context.abort(grpc.StatusCode.UNAVAILABLE, "cut")

    server.on("DownloadResult", cut)
    with pytest.raises(UnreachableError):
        alice.result("t", tmp_path / "r.zip")
    assert list(tmp_path.iterdir()) == []


def test_a_pool_that_sends_more_than_it_said_is_not_believed(
    server: Scripted, alice: NodePoolClient, tmp_path: Path
) -> None:
    server.on("DownloadResult", lambda *_: iter([pb.DownloadResultResponse(total_bytes=3, chunk=b"x" * 100)]))
    with pytest.raises(ClientError, match="more than the 3 bytes"):
        alice.result("t", tmp_path / "r.zip")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "kind", "words"),
    [("RUNNING", NotYetError, "has no result yet"), ("FAILED", MissingError, "the node vanished")],
)
def test_a_missing_result_says_why(
    server: Scripted,
    alice: NodePoolClient,
    tmp_path: Path,
    word: str,
    kind: type[Exception],
    words: str,
) -> None:
    def missing(_request: Any, context: grpc.ServicerContext) -> Iterator[pb.DownloadResultResponse]:
        context.abort(grpc.StatusCode.NOT_FOUND, "no result")
        yield

    server.on("DownloadResult", missing)
    detail = pb.TaskDetail(state=word, reason="the node vanished")
    server.answers("PollTaskStatus", pb.PollTaskStatusResponse(task_id="t", status=word, detail=detail))
    with pytest.raises(kind, match=words):
        alice.result("t", tmp_path / "r.zip")


def test_what_is_there_already_is_not_overwritten_and_nothing_is_asked(
    server: Scripted, alice: NodePoolClient, tmp_path: Path
) -> None:
    (tmp_path / "r.zip").write_text("precious")
    with pytest.raises(RefusedError, match="exists already"):
        alice.result("t", tmp_path / "r.zip")
    assert server.asked == {}
    server.on("DownloadResult", lambda *_: in_chunks(RESULT))
    alice.result("t", tmp_path / "r.zip", overwrite=True)
    assert (tmp_path / "r.zip").read_bytes() == RESULT


def test_a_place_that_cannot_be_written_is_told(
    server: Scripted, alice: NodePoolClient, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    server.on("DownloadResult", lambda *_: in_chunks(RESULT))
    with pytest.raises(RefusedError, match="cannot be written"):
        alice.result("t", tmp_path / "file" / "r.zip")
