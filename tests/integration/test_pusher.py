"""Calls to workers over real connections, and what comes of every way to answer or not to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy import update

from dispatcher.push import pusher as push
from dispatcher.push.pusher import Pusher
from nodepool.domain.ends.attempt_end import End
from nodepool.domain.errors import NotFoundError
from nodepool.domain.nodes.fitness import FIRST_BACKOFF_SECONDS, Refusals
from nodepool.domain.nodes.generation import NO_WORK_WORDS, Generation
from nodepool.domain.sizes import MIB
from nodepool.domain.tasks.reasons import told
from nodepool.domain.tasks.states import Outcome
from nodepool.protocol import nodepool_pb2 as pb, nodepool_pb2_grpc as rpc
from nodepool.stores.sql import nodes as node_store
from nodepool.stores.sql.node_rows import StoredNode
from nodepool.stores.sql.tables import nodes
from tests.support.environment import free_port
from tests.support.pushed import PACKAGE, PushedFleet
from tests.support.reservations import reserve
from tests.support.stores import CLAIM
from tests.support.tasks import package
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until

# What no server of gRPC takes that nobody has told otherwise.
LARGE = bytes(5 * MIB)
RESULT = package({"made.txt": "made"})
Handler = Callable[[Any, grpc.ServicerContext], Any]


class Worker(rpc.WorkerNodeServiceServicer):
    """Answers as the test says, and keeps what it was asked."""

    def __init__(self) -> None:
        self.execute: Handler = lambda *_: pb.ExecuteTaskResponse(success=True)
        self.asked: list[pb.ExecuteTaskRequest] = []
        self.stopped: list[str] = []
        self.runs = True
        self.let_go, self.cut_off = threading.Event(), threading.Event()
        self._serve()

    def take_any_message(self) -> None:
        self._server.stop(0).wait(60)
        self._serve(("grpc.max_receive_message_length", -1))

    def _serve(self, *options: tuple[str, int]) -> None:
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0), *options])
        rpc.add_WorkerNodeServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def ExecuteTask(self, request: pb.ExecuteTaskRequest, context: grpc.ServicerContext) -> Any:  # noqa: N802
        context.add_callback(self.cut_off.set)
        self.asked.append(request)
        return self.execute(request, context)

    def StopTaskExecution(self, request: Any, context: Any) -> pb.StopTaskExecutionResponse:  # noqa: N802
        self.stopped.append(request.task_id)
        return pb.StopTaskExecutionResponse(success=True)

    def ReportRunningStatus(self, request: Any, context: Any) -> pb.RunningStatusResponse:  # noqa: N802
        return pb.RunningStatusResponse(success=self.runs)

    def hold(self, answer: pb.ExecuteTaskResponse | None = None) -> None:
        def held(*_: Any) -> pb.ExecuteTaskResponse:
            assert self.let_go.wait(60)
            return answer or pb.ExecuteTaskResponse(success=True)

        self.execute = held

    def close(self) -> None:
        self.let_go.set()
        self._server.stop(0).wait(60)


class Line(PushedFleet):
    """A fleet with a pusher, which is patient: a busy machine may be slow."""

    def __init__(self, valkey: TestValkey, folder: Path, **settings: Any) -> None:
        super().__init__(valkey, folder, **{"push_timeout_seconds": 40.0, **settings})
        self.names: dict[str, list[str]] = {}
        self.looked_up: list[str] = []
        self.pusher = Pusher(self.effects, self.look_up)

    def look_up(self, host: str) -> list[str]:
        self.looked_up.append(host)
        if host not in self.names:
            raise socket.gaierror("no such name")
        return self.names[host]

    def package(self, content: bytes) -> dict[str, Any]:
        """Columns of a task."""
        return {"package_sha256": self.files.put_package(content), "package_bytes": len(content)}

    def stored_node(self, attempt: str) -> StoredNode:
        return self.dispatcher.database.read(lambda c: node_store.find(c, self.attempt(attempt).node_id))

    def pushed(self, port: int, package: bytes = PACKAGE, **facts: Any) -> str:
        """A new attempt on a new node, which is called."""
        node_id = self.node(f"node{self.now:.0f}", port=port, **facts)
        attempt = self.assigned(node_id, **self.package(package))
        self.now += 60
        self.pusher.push(attempt)
        return attempt

    def wait_for(self, attempt: str, state: str) -> str:
        """Until the attempt is in that state; its reason."""
        wait_until(lambda: self.attempt(attempt).state == state, f"{attempt} is {state}", 30)
        query = "SELECT reason FROM attempts WHERE id = ?"
        found = self.dispatcher.database.read(lambda c: c.exec_driver_sql(query, (attempt,)).scalar_one())
        return str(found)

    def close(self) -> None:
        self.pusher.close()
        super().close()


LineFactory = Callable[..., Line]


@pytest.fixture
def make_line(valkey: TestValkey, tmp_path: Path) -> Iterator[LineFactory]:
    lines: list[Line] = []

    def make(**settings: Any) -> Line:
        lines.append(Line(valkey, tmp_path, **settings))
        return lines[-1]

    yield make
    for line in lines:
        line.close()


@pytest.fixture
def line(make_line: LineFactory) -> Line:
    return make_line()


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


def test_a_worker_that_takes_the_task_runs_it(line: Line, worker: Worker) -> None:
    attempt = line.pushed(worker.port)
    line.wait_for(attempt, "running")
    (asked,) = worker.asked
    assert (asked.node_id, asked.task_id) == (line.attempt(attempt).node_id, line.attempt(attempt).task_id)
    assert asked.task_zip == PACKAGE


def test_a_proxy_in_the_environment_is_not_asked(
    line: Line, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "grpc_proxy", "https_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    line.wait_for(line.pushed(worker.port), "running")


# -- answers that are none ---------------------------------------------------------------------------------
class Tcp:
    """Accepts connections, says something or nothing, and holds them."""

    def __init__(self, says: bytes = b"") -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._says, self._held = says, []  # type: bytes, list[socket.socket]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._held.append(connection)
            if self._says:
                connection.sendall(self._says)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in self._held:
            connection.close()


@pytest.mark.parametrize(
    ("says", "state"), [(b"", "lost"), (b"HTTP/1.1 200 OK\r\n\r\n", "refused"), (b"\0" * 4096, "refused")]
)
def test_what_speaks_no_grpc_loses_the_task(make_line: LineFactory, says: bytes, state: str) -> None:
    line = make_line(push_timeout_seconds=1.5)
    server = Tcp(says)
    attempt = line.pushed(server.port)
    assert line.wait_for(attempt, state)
    assert line.task(attempt).state == "QUEUED"
    server.close()


def test_a_port_that_nobody_listens_on_is_a_refusal(line: Line) -> None:
    attempt = line.pushed(free_port())
    assert "cannot be reached" in line.wait_for(attempt, "refused")


def test_a_worker_that_says_nothing_loses_the_task_and_is_told_to_stop(
    make_line: LineFactory, worker: Worker
) -> None:
    line = make_line(push_timeout_seconds=1.5)
    worker.hold()
    attempt = line.pushed(worker.port)
    assert "said nothing for 1.5" in line.wait_for(attempt, "lost")
    wait_until(lambda: worker.stopped, "it is told to stop")
    assert worker.cut_off.wait(60)


def test_an_answer_that_is_too_large_is_the_tasks_own_fault(make_line: LineFactory, worker: Worker) -> None:
    line = make_line(grpc_max_message_mb=1, max_result_bytes=2048)
    for size, words in ((2 << 20, "larger than the 1 MiB"), (4096, "larger than the 2 KiB")):
        worker.execute = lambda *_, size=size: pb.ExecuteTaskResponse(success=True, result=bytes(size))
        attempt = line.pushed(worker.port)
        assert words in line.wait_for(attempt, "finished")
        assert line.task(attempt).state == "FAILED"
        node = line.stored_node(attempt)
        assert (node.history_bad, node.refusals) == (0, Refusals())


# -- messages that a worker does not take ------------------------------------------------------------------
def test_a_package_over_its_largest_message_is_nobodys_fault_and_is_remembered(
    line: Line, worker: Worker
) -> None:
    attempt = line.pushed(worker.port, package=LARGE)
    reason = line.wait_for(attempt, "refused")
    assert reason.endswith("takes messages of at most 4 MiB, and the package has 5 MiB")
    assert not worker.asked
    node = line.stored_node(attempt)
    assert node.refusals == Refusals(message_bytes=4 * MIB, message_bytes_at=line.now)
    assert (node.history_bad, node.bad_streak) == (0, 0)
    task = line.task(attempt)
    assert (task.state, task.attempts_ended) == ("QUEUED", 0)
    (view,) = line.dispatcher.registry.views([node.id], 1e9)
    assert view is not None
    assert (view.message_bytes, view.draining) == (4 * MIB, False)
    # Where it is called elsewhere it may be another server; at the same place it is the same.
    for port, known in ((worker.port, 4 * MIB), (worker.port + 1, 0)):
        line.node(node.id, port=port)
        assert line.stored_node(attempt).message_bytes == known


def test_a_worker_that_says_no_sizes_has_a_bound_below_what_it_refused(line: Line, worker: Worker) -> None:
    def refuse(_: Any, context: grpc.ServicerContext) -> Any:
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much")

    worker.execute = refuse
    worker.take_any_message()
    attempt = line.pushed(worker.port, package=LARGE)
    line.wait_for(attempt, "refused")
    assert line.stored_node(attempt).message_bytes == 5 * MIB
    # What every server takes met one that is full: it is left alone, and nothing is learnt of sizes.
    small = line.pushed(worker.port)
    assert "is full: it answered RESOURCE_EXHAUSTED: too much" in line.wait_for(small, "refused")
    node = line.stored_node(small)
    assert (node.message_bytes, node.refusals.backs_off(line.now)) == (0, True)


def test_a_bound_is_forgotten_when_a_larger_package_was_taken(line: Line, worker: Worker) -> None:
    worker.take_any_message()
    known = {"message_bytes": 4 * MIB, "message_bytes_at": line.now}
    attempt = line.assigned(line.node(port=worker.port), **line.package(LARGE))
    line.dispatcher.database.write(lambda c: c.execute(update(nodes).values(known)))
    line.now += 60
    line.pusher.push(attempt)
    line.wait_for(attempt, "running")
    row = line.attempt(attempt)
    end = End(outcome=Outcome.SUCCEEDED, exit_code=0, reason=told(""))
    line.dispatcher.lifecycle.end_attempt(attempt, row.node_id, row.owner_id, end)
    assert line.stored_node(attempt).message_bytes == 0


def test_a_node_that_has_registered_again_is_not_called_before_it_reports(line: Line, worker: Worker) -> None:
    for generation in (Generation.UNTOLD, Generation.LATER):
        node_id = line.node(f"node-{generation}", port=worker.port)
        attempt = line.assigned(node_id)
        line.node(node_id, port=worker.port, generation=generation)
        line.now += 60
        line.pusher.push(attempt)
        assert NO_WORK_WORDS[generation] in line.wait_for(attempt, "refused")
        node = line.stored_node(attempt)
        assert (node.history_bad, node.refusals, line.task(attempt).attempts_ended) == (0, Refusals(), 0)
    assert not worker.asked


# -- where it connects to ----------------------------------------------------------------------------------
def test_a_name_is_resolved_once_and_the_checked_address_is_called(line: Line, worker: Worker) -> None:
    line.names["node.example.org"] = ["127.0.0.1"]
    line.wait_for(line.pushed(worker.port, hostname="node.example.org"), "running")
    assert line.looked_up == ["node.example.org"]


@pytest.mark.parametrize(
    ("addresses", "words"),
    [
        (["127.0.0.1", "169.254.169.254"], "never called"),
        (["127.0.0.1", "10.0.0.1"], "private"),
        (["8.8.8.8"], "registered from"),
        ([], "no address"),
    ],
)
def test_a_name_with_an_address_that_may_not_be_called_is_not(
    line: Line, worker: Worker, addresses: list[str], words: str
) -> None:
    line.names["node.example.org"] = addresses
    attempt = line.pushed(worker.port, hostname="node.example.org")
    assert words in line.wait_for(attempt, "refused")
    assert not worker.asked


def test_a_name_that_is_not_there_is_a_refusal(line: Line) -> None:
    attempt = line.pushed(1, hostname="nowhere.example.org")
    assert "could not be resolved: no such name" in line.wait_for(attempt, "refused")


def test_a_name_whose_server_hangs_holds_up_nobody(make_line: LineFactory, worker: Worker) -> None:
    line = make_line(push_timeout_seconds=1.5)
    hangs = threading.Event()

    def look_up(host: str) -> list[str]:
        hangs.wait(60)
        return []

    line.pusher.close()
    line.pusher = Pusher(line.effects, look_up)
    slow = line.pushed(1, hostname="slow.example.org")
    line.wait_for(line.pushed(worker.port), "running")
    assert "could not be resolved: in time" in line.wait_for(slow, "refused")
    hangs.set()


def test_an_address_that_is_not_allowed_any_more_is_not_called(
    make_line: LineFactory, worker: Worker
) -> None:
    line = make_line(push_allowed_networks="")
    attempt = line.pushed(worker.port)
    assert "loopback" in line.wait_for(attempt, "refused")
    assert not worker.asked


# -- once --------------------------------------------------------------------------------------------------
def test_two_dispatchers_send_an_attempt_once(line: Line, worker: Worker) -> None:
    second = Pusher(line.effects)
    attempt = line.assigned(line.node(port=worker.port))
    line.now += 60
    for _ in range(20):
        for pusher in (line.pusher, second):
            pusher.push(attempt)
    line.wait_for(attempt, "running")
    for pusher in (line.pusher, second):
        pusher.push(attempt)
    # Who comes after the hints comes after what they did.
    line.wait_for(line.pushed(worker.port), "running")
    second.close()
    assert [asked.task_id for asked in worker.asked].count(line.attempt(attempt).task_id) == 1


def test_what_is_over_or_on_an_agent_is_not_sent(line: Line, worker: Worker) -> None:
    lost = line.assigned(line.node("n1", port=worker.port))
    line.dispatcher.lifecycle.lose_attempt(lost, "n1", line.owner_id, told("gone"))
    agents = line.assigned(line.node("n2", port=worker.port, kind="agent"))
    stopped = line.assigned(line.node("n3", port=worker.port))
    line.stop(stopped)
    line.now += 60
    for attempt in (lost, agents, "nobody's:1", "nonsense", stopped):
        line.pusher.push(attempt)
    line.wait_for(stopped, "stopped")
    line.wait_for(line.pushed(worker.port), "running")
    assert len(worker.asked) == 1


def test_a_package_that_is_gone_blames_nobody(line: Line, worker: Worker) -> None:
    attempt = line.assigned(line.node(port=worker.port), package_sha256="0" * 64)
    line.now += 60
    line.pusher.push(attempt)
    assert "its package could not be read" in line.wait_for(attempt, "lost")
    assert line.task(attempt).attempts_ended == 0


def test_the_same_task_is_not_sent_to_the_same_node_again_at_once(line: Line, worker: Worker) -> None:
    worker.execute = lambda *_: pb.ExecuteTaskResponse(success=False, message="busy")
    attempt = line.pushed(worker.port)
    line.wait_for(attempt, "refused")
    assert line.effects.pause_seconds(attempt) == 0
    row, registry = line.attempt(attempt), line.dispatcher.registry
    wait_until(
        lambda: reserve(registry, row.node_id, "other:1", CLAIM, at=line.now) == "draining", "it backs off"
    )
    line.now += FIRST_BACKOFF_SECONDS
    line.dispatcher.lifecycle.sync_node(row.node_id)
    line.place(row.task_id, row.node_id, 2)
    assert line.effects.pause_seconds(f"{row.task_id}:2") == 0


# -- a call that is held -----------------------------------------------------------------------------------
def speak(line: Line, attempt: str) -> None:
    """As the gateway does when the worker speaks for the task."""
    from nodepool.stores.sql import tasks as task_store

    row = line.attempt(attempt)
    line.dispatcher.database.write(
        lambda c: task_store.claim_attempt(c, attempt, row.node_id, row.owner_id, line.now)
    )


def test_a_held_call_keeps_its_attempt_alive_and_is_cut_when_it_ends(
    make_line: LineFactory, worker: Worker
) -> None:
    line = make_line(push_timeout_seconds=5.0)
    worker.hold()
    attempt = line.pushed(worker.port)
    wait_until(lambda: worker.asked, "it is called")
    speak(line, attempt)
    line.redis.delete(f"attempt:{attempt}:word")
    wait_until(lambda: line.effects.words.ages([attempt])[attempt] < 60, "the held call is a word")
    assert not worker.cut_off.is_set()
    row = line.attempt(attempt)
    end = End(outcome=Outcome.SUCCEEDED, exit_code=0, reason=told(""))
    line.dispatcher.lifecycle.end_attempt(attempt, row.node_id, row.owner_id, end)
    assert worker.cut_off.wait(60)


@pytest.mark.parametrize(
    ("success", "result", "stop", "expected"),
    [
        (True, RESULT, False, ("finished", "SUCCEEDED")),
        (False, RESULT, False, ("finished", "FAILED")),
        (False, b"", False, ("finished", "FAILED")),
        (True, RESULT, True, ("stopped", "STOPPED")),
        (False, b"", True, ("stopped", "STOPPED")),
    ],
)
def test_the_answer_of_a_held_call_is_the_end(
    line: Line, worker: Worker, *, success: bool, result: bytes, stop: bool, expected: tuple[str, str]
) -> None:
    worker.hold(pb.ExecuteTaskResponse(success=success, result=result, message="so it went"))
    attempt = line.pushed(worker.port)
    wait_until(lambda: worker.asked, "it is called")
    speak(line, attempt)
    if stop:
        line.stop(attempt)
    worker.let_go.set()
    line.wait_for(attempt, expected[0])
    task = line.task(attempt)
    assert task.state == expected[1]
    if result:
        assert line.files.result_bytes(task.result_attempt) == RESULT


def test_a_line_that_breaks_while_it_runs_ends_nothing(line: Line, worker: Worker) -> None:
    worker.hold()
    attempt = line.pushed(worker.port)
    wait_until(lambda: worker.asked, "it is called")
    speak(line, attempt)
    worker.close()
    other = Worker()
    line.wait_for(line.pushed(other.port), "running")
    other.close()
    assert line.attempt(attempt).state == "running"


def test_an_answer_that_comes_too_late_changes_nothing(line: Line, worker: Worker) -> None:
    worker.hold(pb.ExecuteTaskResponse(success=True, result=RESULT))
    attempt = line.pushed(worker.port)
    wait_until(lambda: worker.asked, "it is called")
    row = line.attempt(attempt)
    line.dispatcher.lifecycle.lose_attempt(attempt, row.node_id, row.owner_id, told("given away"))
    worker.let_go.set()
    other = Worker()
    line.wait_for(line.pushed(other.port), "running")
    other.close()
    assert (line.attempt(attempt).state, line.task(attempt).state) == ("lost", "QUEUED")
    with pytest.raises(NotFoundError):
        line.files.result_bytes(attempt)


def test_more_calls_than_are_held_at_once_wait_for_the_sweep(
    line: Line, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(push.MAX_CALLS, "push", 1)
    worker.hold()
    first = line.pushed(worker.port)
    wait_until(lambda: worker.asked, "it is called")
    other = Worker()
    second = line.pushed(other.port)
    line.pusher.stop(first)  # is handled after the push before it
    worker.let_go.set()
    line.wait_for(first, "running")
    assert (line.attempt(second).state, line.attempt(second).pushed_at) == ("assigned", 0)

    def told_again() -> bool:
        line.pusher.push(second)
        return bool(line.attempt(second).state == "running")

    wait_until(told_again, "it is called when there is room")
    other.close()


# -- told to stop, and asked -------------------------------------------------------------------------------
def test_a_stop_names_the_task_and_never_hits_a_later_attempt(line: Line, worker: Worker) -> None:
    attempt = line.pushed(worker.port)
    line.wait_for(attempt, "running")
    row = line.attempt(attempt)
    line.pusher.stop(attempt)  # nobody asked for it
    line.dispatcher.lifecycle.lose_attempt(attempt, row.node_id, row.owner_id, told("given away"))
    line.pusher.stop(attempt)
    wait_until(lambda: worker.stopped, "it is told to stop")
    assert worker.stopped == [row.task_id]
    line.place(row.task_id, row.node_id, 2)
    line.pusher.stop(attempt)
    line.pusher.push(f"{row.task_id}:2")
    line.now += 60
    line.wait_for(f"{row.task_id}:2", "running")
    assert worker.stopped == [row.task_id]


@pytest.mark.parametrize(("runs", "heard"), [(True, True), (False, False)])
def test_a_worker_that_is_asked_says_whether_it_runs(
    line: Line, worker: Worker, *, runs: bool, heard: bool
) -> None:
    attempt = line.pushed(worker.port)
    line.wait_for(attempt, "running")
    wait_until(lambda: line.effects.words.ages([attempt])[attempt] < 60, "the answer was a word")
    line.redis.delete(f"attempt:{attempt}:word")
    worker.runs = runs
    asked = threading.Event()
    answer = worker.ReportRunningStatus

    def report(request: Any, context: Any) -> Any:
        context.add_callback(asked.set)
        return answer(request, context)

    worker.ReportRunningStatus = report  # type: ignore[method-assign]
    line.pusher.ask(attempt)
    if heard:
        wait_until(lambda: line.effects.words.ages([attempt])[attempt] < 60, "it is heard of")
    else:
        wait_until(lambda: not line.pusher._tasks, "it was asked")
        assert line.effects.words.ages([attempt])[attempt] == float("inf")


def test_a_worker_that_does_not_know_the_question_is_believed(line: Line) -> None:
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    handlers = {
        "ExecuteTask": grpc.unary_unary_rpc_method_handler(
            lambda *_: pb.ExecuteTaskResponse(success=True).SerializeToString()
        )
    }
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("nodepool.WorkerNodeService", handlers),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    attempt = line.pushed(port)
    line.wait_for(attempt, "running")
    wait_until(lambda: line.effects.words.ages([attempt])[attempt] < 60, "the answer was a word")
    line.redis.delete(f"attempt:{attempt}:word")
    line.pusher.ask(attempt)
    wait_until(lambda: line.effects.words.ages([attempt])[attempt] < 60, "it is heard of")
    server.stop(0).wait(60)
