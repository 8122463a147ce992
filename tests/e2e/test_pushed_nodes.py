"""Workers that know only the wire contract: they are called, work, and their results come back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from nodepool.messaging.publisher import Publisher, make_app
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.settings import Settings
from nodepool.stores.redis import keys
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.hostile import refused
from tests.support.pool import PoolFactory, TestPool
from tests.support.receivers import Receiver
from tests.support.tasks import new_task_id, package, script, unpacked
from tests.support.waiting import wait_until
from tests.support.wire_worker import WireWorker

SETTINGS = {"PUSH_TO_NODES": "true", "PUSH_ALLOWED_NETWORKS": "127.0.0.0/8", "PUSH_TIMEOUT_SECONDS": "3"}
SOURCE = script("import os\nopen('made.txt', 'w').write('made')\nprint('ran as', os.environ['TASK_ID'])")
RESULT = package({"made.txt": "made", "task_logs.txt": "said\n"})
WorkerFactory = Callable[..., WireWorker]


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    return pool_factory(agents=0, settings=SETTINGS)


@pytest.fixture
def user(pool: TestPool) -> Iterator[Account]:
    """A new user; what is left of the tasks takes no worker of another test."""
    user = pool.register_user()
    yield user
    request = pb.GetAllTasksRequest(token=user.token)
    for task in user.stubs.tasks.GetAllTasks(request, timeout=CALL_SECONDS).tasks:
        user.stop(task.task_id)
        user.wait_for_end(task.task_id)


@pytest.fixture
def make_worker(pool: TestPool) -> Iterator[WorkerFactory]:
    """make_worker(preferred=…): a worker of a new user; it has left the pool when the test ends."""
    made: list[tuple[WireWorker, Account]] = []

    def make(*, preferred: bool = False) -> WireWorker:
        owner = pool.register_user()
        worker = WireWorker(pool.address, owner.username, owner.password).serve()
        made.append((worker, owner))
        # A worker with Docker has the higher trust, and is taken first.
        worker.register(docker_status="running" if preferred else "")
        return worker

    yield make
    for worker, owner in made:
        request = pb.DeregisterNodeRequest(node_id=worker.node_id)
        owner.stubs.nodes.DeregisterNode(request, metadata=owner.metadata, timeout=CALL_SECONDS)
        worker.close()


@pytest.fixture
def worker(make_worker: WorkerFactory) -> WireWorker:
    return make_worker(preferred=True)


@pytest.fixture
def good(make_worker: WorkerFactory) -> WireWorker:
    """A second worker, which does its work; taken when the first one is not."""
    good = make_worker()
    good.handlers["ExecuteTask"] = good.accept_and_work
    return good


class Taken:
    """A handler that takes the task and leaves everything else to the test."""

    def __init__(self, worker: WireWorker, *, hold: bool = False) -> None:
        self.called, self.let_go, self.cut_off = threading.Event(), threading.Event(), threading.Event()
        self.answer: dict[str, Any] = {"success": True}
        self._worker, self._hold = worker, hold
        worker.handlers["ExecuteTask"] = self

    def __call__(self, request: Any, context: grpc.ServicerContext) -> dict[str, Any]:
        self._worker.runs.add(request.task_id)
        context.add_callback(self.cut_off.set)
        self.called.set()
        if self._hold:
            assert self.let_go.wait(60)
        return self.answer


def attempts(user: Account, task: str) -> list[pb.AttemptRecord]:
    return list(user.detail(task).attempts)


def goes_elsewhere(user: Account, task: str, good: WireWorker) -> pb.AttemptRecord:
    """The first attempt, of a task that has ended well on the good worker."""
    user.wait_for(task, "COMPLETED")
    first, second = attempts(user, task)
    assert second.node_id == good.node_id
    assert unpacked(user.result(task))["made.txt"] == b"made"
    return first


# -- it works -------------------------------------------------------------------------------------------
def test_a_worker_that_knows_only_the_wire_contract_works_and_its_result_comes_back(
    user: Account, worker: WireWorker
) -> None:
    worker.handlers["ExecuteTask"] = worker.accept_and_work
    task = user.submit(SOURCE)
    user.wait_for(task, "COMPLETED")
    assert user.logs(task) == f"the container was started\nran as {task}\n"
    files = unpacked(user.result(task))
    assert files["made.txt"] == b"made"
    assert files["task_logs.txt"].decode() == f"ran as {task}\n"
    (record,) = attempts(user, task)
    assert (record.node_id, record.state) == (worker.node_id, "finished")
    (asked,) = worker.asked["ExecuteTask"]
    assert (asked.node_id, asked.task_id, asked.task_zip) == (worker.node_id, task, SOURCE)


def test_a_program_that_fails_has_failed_with_its_result(user: Account, worker: WireWorker) -> None:
    worker.handlers["ExecuteTask"] = worker.accept_and_work
    task = user.submit(script("open('half.txt', 'w').write('half')\nraise SystemExit(3)"))
    user.wait_for(task, "FAILED")
    assert unpacked(user.result(task))["half.txt"] == b"half"
    assert len(attempts(user, task)) == 1


def test_the_call_carries_no_secret(pool: TestPool, user: Account, worker: WireWorker) -> None:
    worker.handlers["ExecuteTask"] = worker.accept_and_work
    task = user.submit(SOURCE)
    user.wait_for(task, "COMPLETED")
    assert set(worker.metadata) <= {"user-agent", "grpc-accept-encoding"}
    secrets = [user.token, user.username, user.password, pool.environment()["JWT_SECRET_KEY"]]
    assert not [secret for secret in secrets if secret in repr((worker.metadata, worker.asked))]


def test_a_result_in_the_answer_of_a_held_call_is_the_tasks(user: Account, worker: WireWorker) -> None:
    def hold(request: Any, _context: Any) -> dict[str, Any]:
        success, output, result = worker.run(request.task_id, request.task_zip)
        worker.call("StoreOutput", task_id=request.task_id, output=output)
        return {"success": success, "result": result}

    worker.handlers["ExecuteTask"] = hold
    task = user.submit(SOURCE)
    user.wait_for(task, "COMPLETED")
    assert unpacked(user.result(task))["made.txt"] == b"made"
    assert user.logs(task) == f"ran as {task}\n"
    worker.handlers["ExecuteTask"] = lambda *_: {"success": False, "message": "exit 3", "result": RESULT}
    task = user.submit(SOURCE)
    assert "exit 3" in user.wait_for(task, "FAILED").message
    assert unpacked(user.result(task))["made.txt"] == b"made"


def test_a_held_call_lives_as_long_as_its_worker_speaks_and_ends_with_the_task(
    pool: TestPool, user: Account, worker: WireWorker
) -> None:
    taken = Taken(worker, hold=True)
    task = user.submit(SOURCE)
    assert taken.called.wait(60)
    said = worker.call("ReportRunningStatus", node_id=worker.node_id, task_id=task)
    assert (said.success, said.cpt_reward) == (True, 1)  # the minute that it began, at one CPT
    user.wait_for(task, "RUNNING")
    word = f"attempt:{pool.attempt(task)}:word"
    pool.valkey.admin.delete(word)
    # The call itself is a word once it was held for longer than a silent worker has.
    pool.wait(lambda: pool.valkey.admin.exists(word), "the call is held")
    assert not taken.cut_off.is_set()
    worker.call("StoreResult", task_id=task, result_zip=RESULT)
    assert worker.call("TaskCompleted", task_id=task, node_id=worker.node_id, success=True).success
    assert user.poll(task).status == "COMPLETED"
    assert taken.cut_off.wait(60)
    taken.let_go.set()
    assert user.result(task) == RESULT


# -- it does not work ------------------------------------------------------------------------------------
def test_a_refusal_sends_the_task_elsewhere_with_the_workers_words(
    user: Account, worker: WireWorker, good: WireWorker
) -> None:
    worker.handlers["ExecuteTask"] = lambda *_: {"success": False, "message": "busy\x1b[2J\n" + "x" * 5000}
    record = goes_elsewhere(user, user.submit(SOURCE), good)
    assert record.state == "refused"
    assert record.reason.startswith(f"node {worker.node_id} refused it: busy [2J xxx")
    assert len(record.reason) < 500


def _undecodable(*_: Any) -> bytes:
    return b"\xff\xff\xff\xff"


def _error(_request: Any, context: grpc.ServicerContext) -> dict[str, Any]:
    context.abort(grpc.StatusCode.INTERNAL, "a bug")


GARBAGE: dict[str, tuple[Any, str]] = {
    "not the protocol": (_undecodable, "not of the protocol"),
    "an error": (_error, "INTERNAL: a bug"),
    "a result that is no ZIP": (lambda *_: {"success": True, "result": b"no ZIP"}, "not a ZIP"),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_a_worker_that_answers_with_garbage_loses_the_task(
    user: Account, worker: WireWorker, good: WireWorker, what: str
) -> None:
    worker.handlers["ExecuteTask"], words = GARBAGE[what]
    record = goes_elsewhere(user, user.submit(SOURCE), good)
    assert record.state == "refused"
    assert words in record.reason


def test_a_worker_that_hangs_loses_the_task_and_is_told_to_stop(
    pool: TestPool, user: Account, worker: WireWorker, good: WireWorker
) -> None:
    taken = Taken(worker, hold=True)
    task = user.submit(SOURCE)
    record = goes_elsewhere(user, task, good)
    assert record.state == "lost"
    assert "said nothing for 3" in record.reason
    pool.wait(lambda: worker.asked["StopTaskExecution"], "it is told to stop")
    taken.let_go.set()
    # What it says now is late.
    code, _ = refused(
        lambda: worker.call("TaskCompleted", task_id=task, node_id=worker.node_id, success=True)
    )
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert len(attempts(user, task)) == 2


# -- it is stopped ---------------------------------------------------------------------------------------
def test_a_stop_reaches_the_worker_and_its_result_is_kept(
    pool: TestPool, user: Account, worker: WireWorker
) -> None:
    Taken(worker)
    task = user.submit(SOURCE)
    user.wait_for(task, "RUNNING")
    stopped = package({"half.txt": "half", "task_stopped.txt": "stopped"})

    def stop(request: Any, _context: Any) -> dict[str, Any]:
        worker.call("ReturnTaskResult", task_id=request.task_id, result_zip=stopped)
        worker.call("TaskCompleted", task_id=request.task_id, node_id=worker.node_id, success=False)
        return {"success": True}

    worker.handlers["StopTaskExecution"] = stop
    assert user.stop(task).success
    user.wait_for(task, "STOPPED")
    assert user.result(task) == stopped
    assert worker.asked["StopTaskExecution"][0].task_id == task
    assert pool.valkey.admin.llen(f"node.{worker.node_id}") == 0


def test_a_worker_that_does_not_stop_in_time_is_left_with_what_there_is(
    user: Account, worker: WireWorker
) -> None:
    Taken(worker)
    task = user.submit(SOURCE)
    user.wait_for(task, "RUNNING")
    worker.call("StoreLogs", node_id=worker.node_id, task_id=task, logs="half of it")
    worker.handlers["StopTaskExecution"] = lambda *_: {"success": False, "message": "no"}
    assert user.stop(task).success
    assert not worker.call("ReportRunningStatus", node_id=worker.node_id, task_id=task).success
    answer = user.wait_for(task, "STOPPED")
    assert "did not end it within 9 s" in answer.message
    files = unpacked(user.result(task))
    assert files["task_logs.txt"] == b"half of it\n"
    assert {"task_stopped.txt", "execution_log.txt"} <= set(files)


# -- what else may be said for a task --------------------------------------------------------------------
@pytest.fixture
def running(user: Account, worker: WireWorker) -> str:
    """A task that the worker has taken."""
    Taken(worker)
    task = user.submit(SOURCE)
    user.wait_for(task, "RUNNING")
    return task


def test_a_completion_told_twice_is_one(user: Account, worker: WireWorker, running: str) -> None:
    worker.call("ReturnTaskResult", task_id=running, result_zip=RESULT)
    for _ in range(3):
        assert worker.call("TaskCompleted", task_id=running, node_id=worker.node_id, success=True).success
    code, _ = refused(
        lambda: worker.call("TaskCompleted", task_id=running, node_id=worker.node_id, success=False)
    )
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert user.poll(running).status == "COMPLETED"


def test_what_a_worker_said_is_there_when_the_broker_has_forgotten_it(
    pool: TestPool, user: Account, worker: WireWorker, running: str
) -> None:
    """Its result has no log, and live output ends soon."""
    worker.call("StoreLogs", node_id=worker.node_id, task_id=running, logs="said")
    worker.call("ReturnTaskResult", task_id=running, result_zip=RESULT)
    worker.call("TaskCompleted", task_id=running, node_id=worker.node_id, success=True)
    said = user.logs(running)
    assert "said" in said
    assert pool.valkey.admin.delete(keys.output(pool.attempt(running))) == 1
    assert user.logs(running) == said


def test_nothing_is_taken_after_the_end(user: Account, worker: WireWorker, running: str) -> None:
    worker.call("StoreLogs", node_id=worker.node_id, task_id=running, logs="said")
    worker.call("ReturnTaskResult", task_id=running, result_zip=RESULT)
    worker.call("TaskCompleted", task_id=running, node_id=worker.node_id, success=True)
    other = package({"made.txt": "forged"})
    for method, fields in (
        ("ReturnTaskResult", {"result_zip": other}),
        ("StoreResult", {"result_zip": other}),
        ("StoreOutput", {"output": "injected"}),
        ("StoreLogs", {"node_id": worker.node_id, "logs": "injected"}),
        ("ReportRunningStatus", {"node_id": worker.node_id}),
    ):
        code, _ = refused(lambda: worker.call(method, task_id=running, **fields))  # noqa: B023
        assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert user.result(running) == RESULT
    assert user.logs(running) == "said\n"


def test_another_worker_cannot_speak_for_the_task(
    user: Account, worker: WireWorker, good: WireWorker, running: str
) -> None:
    for method, fields in (
        ("ReturnTaskResult", {"result_zip": RESULT}),
        ("StoreResult", {"result_zip": RESULT}),
        ("StoreOutput", {"output": "injected"}),
        ("StoreLogs", {"node_id": worker.node_id, "logs": "injected"}),
        ("StoreLogs", {"node_id": good.node_id, "logs": "injected"}),
        ("ReportOutput", {"node_id": worker.node_id, "output": "injected"}),
        ("ReportRunningStatus", {"node_id": worker.node_id}),
        ("TaskCompleted", {"node_id": worker.node_id, "success": True}),
        ("TaskCompleted", {"node_id": good.node_id, "success": True}),
        ("TaskCompleted", {"success": True}),
    ):
        code, _ = refused(lambda: good.call(method, task_id=running, **fields))  # noqa: B023
        assert code in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION}
    assert (user.poll(running).status, user.logs(running)) == ("RUNNING", "")


def test_a_worker_speaks_in_the_name_of_the_node_that_has_the_task(
    user: Account, worker: WireWorker, running: str
) -> None:
    for method, fields in (
        ("StoreLogs", {"logs": "injected"}),
        ("ReportOutput", {"output": "injected"}),
        ("ReportRunningStatus", {}),
        ("TaskCompleted", {"success": True}),
    ):
        code, _ = refused(
            lambda: worker.call(method, task_id=running, node_id="somebody/else", **fields)  # noqa: B023
        )
        assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert (user.poll(running).status, user.logs(running)) == ("RUNNING", "")


def test_what_is_too_large_or_no_zip_is_refused(user: Account, worker: WireWorker, running: str) -> None:
    for method, fields in (
        ("StoreOutput", {"output": "x" * ((1 << 20) + 1)}),
        ("StoreResult", {"result_zip": b"PK\x03\x04 no ZIP"}),
        ("ReturnTaskResult", {"result_zip": b""}),
    ):
        code, _ = refused(lambda: worker.call(method, task_id=running, **fields))  # noqa: B023
        assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert worker.call("TaskCompleted", task_id=running, node_id=worker.node_id, success=True).success
    assert not user.detail(running).has_result


def test_an_agents_task_is_spoken_for_by_its_agent_only(pool: TestPool, user: Account) -> None:
    agent = pool.add_agent("an-agent")
    owner = WireWorker(pool.address, agent.owner.username, agent.owner.password)
    task = user.submit(script("import time\nprint('begun', flush=True)\ntime.sleep(3600)"))
    pool.wait(lambda: "begun" in user.logs(task), "the agent runs it")
    code, message = refused(lambda: owner.call("StoreResult", task_id=task, result_zip=RESULT))
    assert (code, "agent" in message) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    user.stop(task)
    user.wait_for(task, "STOPPED")
    owner.close()
    agent.stop()


# -- hints -----------------------------------------------------------------------------------------------
def test_a_push_that_comes_many_times_starts_once(pool: TestPool, user: Account, worker: WireWorker) -> None:
    Taken(worker)
    app = make_app(Settings(redis_url=pool.valkey.url), "doubler")
    publisher = Publisher(app)
    task = new_task_id()
    user.submit(SOURCE, task)
    pool.wait(lambda: user.detail(task).state != "QUEUED", "the task has a node")
    attempt = pool.attempt(task)
    for _ in range(50):
        publisher.push(worker.node_id, attempt)
    user.wait_for(task, "RUNNING")
    for _ in range(50):
        publisher.push(worker.node_id, attempt)
    pool.wait(lambda: not pool.valkey.admin.llen("push"), "all hints are taken")
    worker.call("TaskCompleted", task_id=task, node_id=worker.node_id, success=True)
    # Who comes after the hints comes after what they did.
    after = user.submit(SOURCE)
    user.wait_for(after, "RUNNING")
    assert [asked.task_id for asked in worker.asked["ExecuteTask"]] == [task, after]
    publisher.close()
    app.close()


def test_a_dispatcher_that_dies_while_it_holds_a_call_loses_no_run(
    pool: TestPool, user: Account, worker: WireWorker
) -> None:
    taken = Taken(worker, hold=True)
    task = user.submit(SOURCE)
    assert taken.called.wait(60)
    worker.call("StoreOutput", task_id=task, output="first\n")
    pool.dispatcher.kill()
    assert taken.cut_off.wait(60)
    pool.dispatcher.start()
    worker.call("StoreOutput", task_id=task, output="second\n")
    worker.call("StoreResult", task_id=task, result_zip=RESULT)
    worker.call("TaskCompleted", task_id=task, node_id=worker.node_id, success=True)
    taken.let_go.set()
    assert user.wait_for(task, "COMPLETED")
    assert (user.logs(task), user.result(task)) == ("first\nsecond\n", RESULT)
    # The pool is whole again.
    worker.handlers["ExecuteTask"] = worker.accept_and_work
    user.wait_for(user.submit(SOURCE), "COMPLETED")


# -- who may be called -----------------------------------------------------------------------------------
@pytest.mark.parametrize("hostname", ["10.0.0.5", "169.254.169.254", "8.8.8.8", "::1"])
def test_a_registration_elsewhere_is_refused_and_names_the_setting(pool: TestPool, hostname: str) -> None:
    owner = pool.register_user()
    worker = WireWorker(pool.address, owner.username, owner.password).serve()
    message = worker.register_refused(hostname)
    worker.close()
    assert "PUSH_ALLOWED_NETWORKS" in message or "never called" in message
    assert owner.username not in {node.node_id for node in owner.node_list()}


@pytest.mark.parametrize(("hostname", "port"), [("", 1), ("0x7f.1", 1), ("localhost", 1)])
def test_a_registration_that_names_no_address_is_refused(pool: TestPool, hostname: str, port: int) -> None:
    owner = pool.register_user()
    worker = WireWorker(pool.address, owner.username, owner.password)
    message = worker.register_refused(hostname, port)
    worker.close()
    assert "hostname" in message


def test_where_pushing_is_off_such_nodes_register_and_get_no_work(pool_factory: PoolFactory) -> None:
    pool = pool_factory(agents=0)
    owner = pool.register_user()
    worker = WireWorker(pool.address, owner.username, owner.password).serve()
    worker.register("10.0.0.5")
    (node,) = owner.node_list()
    assert (node.kind, node.status) == ("pushed", "ONLINE")
    task = owner.submit(SOURCE)
    wait_until(lambda: "agents only" in owner.detail(task).reason, "the reason is told", 30)
    assert not worker.asked["ExecuteTask"]
    worker.close()


def test_the_end_of_a_task_is_told_to_a_webhook_that_the_pool_may_call(pool: TestPool, user: Account) -> None:
    """By the sweep, the queue of its own and the dispatcher's senders, as in life."""
    with Receiver() as receiver:
        target = pb.SetNotifyTargetRequest(name="hook", url=receiver.url)
        stub = user.stubs.users.SetNotifyTarget
        key = stub(target, metadata=user.metadata, timeout=CALL_SECONDS).key
        task = user.submit(SOURCE, notify=["hook"])
        user.stop(task)
        (came,) = receiver.wait_for(1)
        assert came.is_signed_with(key)
        assert (came.told["data"]["task_id"], came.told["data"]["state"]) == (task, "STOPPED")
        wait_until(lambda: user.detail(task).notifications[0].state == "sent", "that it came is noted")
