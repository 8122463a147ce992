"""What real workers and masters of two generations showed: each here as they speak."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import grpc
import jwt
import pytest

from gateway.auth.tokens import CallerIdentity, Tokens
from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.hostile import refused
from tests.support.pool import PoolFactory, TestPool
from tests.support.tasks import new_task_id, package, script
from tests.support.waiting import wait_until
from tests.support.wire import contract
from tests.support.wire_worker import WireWorker

SETTINGS = {"PUSH_TO_NODES": "true", "PUSH_ALLOWED_NETWORKS": "127.0.0.0/8", "PUSH_TIMEOUT_SECONDS": "3"}
SOURCE = script("print('ran')")
UPLOAD = contract(
    {
        "UploadTaskRequest": {"task_id": "1 s", "task_zip": "2 y", "location": "7 s", "user_id": "9 s"},
        "UploadTaskResponse": {"success": "1 b", "message": "2 s"},
    }
)


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    return pool_factory(agents=0, settings=SETTINGS)


@pytest.fixture
def user(pool: TestPool) -> Account:
    return pool.register_user()


@pytest.fixture
def owner(pool: TestPool) -> Account:
    return pool.register_user()


@pytest.fixture
def worker(pool: TestPool, owner: Account) -> Iterator[WireWorker]:
    worker = WireWorker(pool.address, owner.username, owner.password).serve()
    worker.handlers["ExecuteTask"] = taken(worker)
    yield worker
    worker.fall_silent()
    worker.close()
    wait_until(lambda: _is_away(pool, worker), "it takes no task of another test")


def _is_away(pool: TestPool, worker: WireWorker) -> bool:
    nodes = pool.owner.node_list()
    return all(node.status == "OFFLINE" for node in nodes if node.node_id == worker.node_id)


def taken(worker: WireWorker) -> Any:
    def take(request: Any, _: grpc.ServicerContext) -> dict[str, Any]:
        worker.runs.add(request.task_id)
        return {"success": True}

    return take


def one_node(pool: TestPool, worker: WireWorker) -> pb.WorkerNodeInfo:
    (node,) = (node for node in pool.owner.node_list() if node.node_id == worker.node_id)
    return node


def explained(user: Account, task: str) -> pb.ExplainTaskResponse:
    request = pb.ExplainTaskRequest(task_id=task)
    return user.stubs.tasks.ExplainTask(request, metadata=user.metadata, timeout=CALL_SECONDS)


def credit_score(account: Account) -> int:
    request = pb.GetCreditRequest(token=account.token)
    return account.stubs.users.GetCredit(request, timeout=CALL_SECONDS).score


def running(user: Account, worker: WireWorker, **needs: Any) -> str:
    """A task that the worker has taken and says nothing of."""
    task = user.submit(SOURCE, **needs)
    wait_until(lambda: task in worker.runs, "the worker has taken it")
    user.wait_for(task, "RUNNING")
    return task


def end(user: Account, worker: WireWorker, task: str) -> None:
    worker.call("TaskCompleted", task_id=task, node_id=worker.node_id, success=True)
    user.wait_for(task, "COMPLETED")


def expired(pool: TestPool, token: str, seconds: float) -> str:
    """The same token, which is over so soon."""
    claims = jwt.decode(token, options={"verify_signature": False})
    secret = (pool.folder / "jwt.secret").read_text()
    identity = CallerIdentity(claims["uid"], claims["sub"], claims["role"], claims["gen"])
    return Tokens(secret, seconds).issue(identity).token


# -- a worker's calls ------------------------------------------------------------------------------------
def test_a_call_carries_what_is_reserved_for_the_run(user: Account, worker: WireWorker) -> None:
    worker.register(gpu_score=100, gpu_memory_gb=8, gpu_name="RTX 4090")
    task = running(user, worker, cpu_score=1500, memory_gb=3, gpu_score=50, gpu_memory_gb=2)
    (asked,) = worker.asked["ExecuteTask"]
    assert (asked.cpu, asked.gpu, asked.memory_gb, asked.gpu_memory_gb) == (1500, 50, 3, 2)
    end(user, worker, task)


def test_a_task_that_asks_for_nothing_may_use_something(user: Account, worker: WireWorker) -> None:
    worker.register()
    task = running(user, worker)
    (asked,) = worker.asked["ExecuteTask"]
    assert asked.cpu > 0
    assert asked.memory_gb >= 1
    end(user, worker, task)


def test_output_is_lines_with_their_time_and_no_telemetry(user: Account, worker: WireWorker) -> None:
    worker.register()
    task = running(user, worker)
    worker.call("StoreOutput", task_id=task, output="first")
    worker.call("StoreOutput", task_id=task, output='RESOURCE_USAGE: {"cpu": 99, "memory": 12}')
    worker.call("StoreOutput", task_id=task, output="second")
    logs = {"node_id": worker.node_id, "task_id": task}
    worker.call("StoreLogs", **logs, logs="third", timestamp=1_751_889_600)
    worker.call("StoreLogs", **logs, logs="RESOURCE_USAGE: {}", timestamp=1_751_889_601)
    worker.call("StoreLogs", **logs, logs="fourth")
    end(user, worker, task)
    assert user.logs(task) == "first\nsecond\n2025-07-07T12:00:00Z third\nfourth\n"


def test_a_token_counts_for_the_words_of_its_node_when_it_is_over(
    pool: TestPool, user: Account, owner: Account, worker: WireWorker
) -> None:
    worker.token = expired(pool, worker.token, 3)
    worker.register()
    task = running(user, worker)
    other = Account(owner.stubs, owner.username, owner.password, worker.token)
    wait_until(lambda: _is_over(other), "its time is over", 30)
    worker.call("StoreOutput", task_id=task, output="after its time")
    assert worker.call("ReportStatus", node_id=worker.node_id, status_message="Busy").success
    assert worker.call("ReportRunningStatus", node_id=worker.node_id, task_id=task).success
    # For nothing else, for no other node, and no other token of the same user.
    for call in (
        worker.register,
        lambda: worker.call("ReportStatus", node_id=f"{worker.node_id}/other"),
        lambda: other.submit(SOURCE),
    ):
        assert refused(call)[0] is grpc.StatusCode.UNAUTHENTICATED
    never_registered = expired(pool, owner.token, -5)
    worker.token, kept = never_registered, worker.token
    assert (
        refused(lambda: worker.call("StoreOutput", task_id=task, output="x"))[0]
        is grpc.StatusCode.UNAUTHENTICATED
    )
    worker.token = kept
    end(user, worker, task)
    assert "after its time" in user.logs(task)
    request = pb.ChangePasswordRequest(
        token=owner.token, old_password=owner.password, new_password=f"{owner.password}-new"
    )
    assert owner.stubs.users.ChangePassword(request, timeout=CALL_SECONDS).success

    def ended() -> bool:
        try:
            worker.call("ReportStatus", node_id=worker.node_id, status_message="Idle")
        except grpc.RpcError as error:
            return bool(error.code() is grpc.StatusCode.UNAUTHENTICATED)
        return False

    wait_until(ended, "a change of the password ends it")


def _is_over(account: Account) -> bool:
    request = pb.GetBalanceRequest(username=account.username, token=account.token)
    try:
        account.stubs.users.GetBalance(request, timeout=CALL_SECONDS)
    except grpc.RpcError as error:
        return bool(error.code() is grpc.StatusCode.UNAUTHENTICATED)
    return False


# -- what it cannot take ---------------------------------------------------------------------------------
def test_a_package_over_a_workers_largest_message_goes_elsewhere_and_counts_against_nobody(
    pool: TestPool, user: Account, owner: Account, worker: WireWorker
) -> None:
    worker.register()
    score = credit_score(owner)
    large = package({"main.py": "print('ran')", "data": os.urandom(6 << 20)})
    task = user.submit(large)
    wait_until(lambda: "messages of at most 4 MiB" in user.poll(task).message, "it says why it waits")
    detail = user.detail(task)
    assert (detail.state, [attempt.state for attempt in detail.attempts]) == ("QUEUED", ["refused"])
    assert detail.attempts[0].reason_class == "node_for_task"
    assert not worker.asked["ExecuteTask"]
    why = explained(user, task)
    assert "takes messages of at most 4 MiB, this package has 6 MiB" in why.message
    assert not why.can_never_run
    assert any("lets its worker take larger messages" in one.sentence for one in why.suggestions)
    node = one_node(pool, worker)
    assert (node.largest_message_bytes, node.unfit) == (4 << 20, "")
    # Whatever it can take it goes on getting, at once.
    end(user, worker, running(user, worker))
    assert len(user.detail(task).attempts) == 1
    other_owner = pool.register_user()
    other = WireWorker(pool.address, other_owner.username, other_owner.password)
    other.serve(("grpc.max_receive_message_length", -1))
    other.handlers["ExecuteTask"] = taken(other)
    other.register()
    user.wait_for(task, "RUNNING")
    end(user, other, task)
    assert user.detail(task).attempts[-1].node_id == other.node_id
    assert credit_score(owner) == score
    other.fall_silent()
    other.close()


# -- which generation it is of ---------------------------------------------------------------------------
def test_a_worker_of_a_later_generation_is_told_and_gets_nothing(
    pool: TestPool, user: Account, worker: WireWorker
) -> None:
    worker.register_only()
    assert worker.report_as_later(memory_usage=12.5, docker_status="running").success is False
    # All of its fields may be empty now and then.
    answer = worker.report()
    assert (answer.success, "later generation" in answer.message) == (False, True)
    task = user.submit(SOURCE)
    wait_until(lambda: "of a later generation" in user.poll(task).message, "it says why it waits")
    assert any("starts an agent there" in one.sentence for one in explained(user, task).suggestions)
    assert "later generation" in one_node(pool, worker).unfit
    assert not worker.asked["ExecuteTask"]
    # Its owner has put a worker of this generation there.
    worker.register_only()
    assert worker.report().success
    wait_until(lambda: task in worker.runs, "the worker has taken it")
    assert one_node(pool, worker).unfit == ""
    end(user, worker, task)


def test_nothing_is_given_to_a_worker_before_it_reports_however_late_that_is(
    pool: TestPool, user: Account, worker: WireWorker
) -> None:
    worker.register_only()
    task = user.submit(SOURCE)
    wait_until(lambda: "has not reported" in user.poll(task).message, "it says why it waits")
    assert any("reports its status" in one.sentence for one in explained(user, task).suggestions)
    # Also when it counts as away meanwhile.
    wait_until(lambda: one_node(pool, worker).status == "OFFLINE", "it is away")
    assert "has not reported" in explained(user, task).message
    assert not worker.asked["ExecuteTask"]
    assert worker.report().success
    wait_until(lambda: task in worker.runs, "the worker has taken it")
    end(user, worker, task)


def test_a_strangers_report_says_nothing_of_a_node(
    pool: TestPool, user: Account, owner: Account, worker: WireWorker
) -> None:
    worker.register()
    assert worker.report().success
    worker.token, own = user.token, worker.token
    code, _ = refused(lambda: worker.report_as_later(memory_usage=12.5))
    worker.token = own
    assert code is grpc.StatusCode.NOT_FOUND
    assert one_node(pool, worker).unfit == ""
    end(user, worker, running(user, worker))


# -- refusals that people are shown ----------------------------------------------------------------------
def test_a_refused_registration_is_an_answer_and_an_agents_is_a_status(user: Account, owner: Account) -> None:
    request = pb.RegisterWorkerNodeRequest(
        node_id=f"{user.username}/node", hostname="127.0.0.1", port=5, cpu_cores=1, memory_gb=1, cpu_score=100
    )
    answer = owner.stubs.nodes.RegisterWorkerNode(request, metadata=owner.metadata, timeout=CALL_SECONDS)
    assert (answer.success, bool(answer.message)) == (False, True)
    request.kind = "agent"
    call = owner.stubs.nodes.RegisterWorkerNode
    code, _ = refused(lambda: call(request, metadata=owner.metadata, timeout=CALL_SECONDS))
    assert code in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT}


def test_logs_of_an_unknown_task_and_of_anothers_are_the_same_answer(user: Account, owner: Account) -> None:
    task = owner.submit(SOURCE)
    told = []
    for task_id in (task, new_task_id()):
        request = pb.GetTaskLogsRequest(task_id=task_id, token=user.token)
        answer = user.stubs.tasks.GetTaskLogs(request, timeout=CALL_SECONDS)
        assert (answer.success, task_id in answer.message, answer.logs) == (False, True, "")
        told.append(answer.message.replace(task_id, ""))
    assert told[0] == told[1]
    owner.stop(task)


# -- a master's calls ------------------------------------------------------------------------------------
def test_nodes_that_are_away_are_left_out_of_an_older_clients_list(user: Account, worker: WireWorker) -> None:
    worker.register()
    nodes = user.stubs.nodes.GetNodeList

    def listed(**fields: bool) -> dict[str, str]:
        request = pb.GetNodeListRequest(**fields)
        found = nodes(request, metadata=user.metadata, timeout=CALL_SECONDS).nodes
        return {node.node_id: node.status for node in found}

    assert listed()[worker.node_id] == "ONLINE"
    worker.fall_silent()
    wait_until(lambda: listed(include_offline=True)[worker.node_id] == "OFFLINE", "it is away")
    assert worker.node_id not in listed()


def test_a_region_without_a_mode_is_preferred(user: Account) -> None:
    answer = user.stubs.tasks.UploadTask
    for mode, kept in (("", "prefer"), ("strict", "strict"), ("prefer", "prefer")):
        task = new_task_id()
        request = pb.UploadTaskRequest(task_id=task, task_zip=SOURCE, location="亞洲", location_mode=mode)
        assert answer(request, metadata=user.metadata, timeout=CALL_SECONDS).success
        assert user.detail(task).location_mode == kept
        user.stop(task)


def test_a_token_in_the_field_of_the_users_name_is_taken(pool: TestPool, user: Account) -> None:
    upload = user.stubs.channel.unary_unary(
        "/nodepool.MasterNodeService/UploadTask",
        request_serializer=UPLOAD["UploadTaskRequest"].SerializeToString,
        response_deserializer=UPLOAD["UploadTaskResponse"].FromString,
    )

    def send(user_id: str, metadata: Any = ()) -> Any:
        task = new_task_id()
        request = UPLOAD["UploadTaskRequest"](task_id=task, task_zip=SOURCE, user_id=user_id)
        answer = upload(request, metadata=metadata, timeout=CALL_SECONDS)
        user.stop(task)
        return answer

    assert send(user.token).success
    assert send("a.user.name", user.metadata).success
    for word in ("", user.username, "a.user.name", expired(pool, user.token, -5)):
        assert refused(lambda word=word: send(word))[0] is grpc.StatusCode.UNAUTHENTICATED  # type: ignore[misc]
