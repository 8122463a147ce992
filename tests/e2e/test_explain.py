"""Why a task waits, on a whole pool: the true reason, and suggestions that place it when followed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from sqlalchemy import update

from nodepool.domain.nodes.node import ENGINE_AWAY
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.tables import users
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.hostile import refused
from tests.support.pool import PoolFactory, TestPool
from tests.support.rogue import SETTINGS
from tests.support.stuck import PACKAGE, Stage, explained
from tests.support.tasks import new_task_id

AMOUNTS = {"memory_gb", "cpu_score", "gpu_score", "gpu_memory_gb"}


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    return pool_factory(agents=0, settings={**SETTINGS, "REGION_PATIENCE_SECONDS": "1"})


@pytest.fixture
def stage(pool: TestPool) -> Iterator[Stage]:
    stage = Stage(pool)
    yield stage
    stage.close()


def set_credit(pool: TestPool, account: Account, score: int) -> None:
    database = Database(pool.database_url)
    try:
        database.write(
            lambda c: c.execute(
                update(users).where(users.c.username == account.username).values(credit_score=score)
            )
        )
    finally:
        database.close()


@dataclass
class Kind:
    """One way to be stuck: the nodes, what the task asks, the clause, and the suggestions, smallest first."""

    nodes: Callable[[Stage], Any]
    asks: dict[str, Any]
    clause: str
    suggested: list[tuple[str, str]]
    act: Callable[[Stage], Any] | None = None
    act_words: str = ""
    hopeless: bool = True


def _two(stage: Stage, **facts: Any) -> None:
    stage.node("a", **facts)
    stage.node("b", **{"memory_gb": 2, **facts})


def _drained(stage: Stage) -> None:
    stage.node("a").drain()


def _silent(stage: Stage) -> None:
    stage.node("a").fall_silent()


def _busy(stage: Stage) -> None:
    stage.node("a")
    stage.placed(memory_gb=3)


def _out_of_slots(stage: Stage) -> None:
    stage.node("a", max_tasks=1)
    stage.placed()


def _without_credit(stage: Stage) -> None:
    stage.node("a")
    set_credit(stage.pool, stage.user, 10)


KINDS = {
    "too much memory for any node": Kind(_two, {"memory_gb": 64}, "too small: memory", [("memory_gb", "4")]),
    "too much CPU for any node": Kind(
        _two, {"cpu_score": 60_000}, "too small: cpu_score", [("cpu_score", "6000")]
    ),
    "a GPU that nobody has": Kind(_two, {"gpu_score": 10}, "too small: gpu_score", [("gpu_score", "0")]),
    "a GPU's name that nobody has": Kind(
        lambda stage: _two(stage, gpu_name="RTX 4090", gpu_score=9000, gpu_memory_gb=24),
        {"gpu_name": "H100", "gpu_score": 100},
        "with another GPU",
        [("gpu_name", "RTX 4090"), ("gpu_name", "Any")],
    ),
    "a region without nodes": Kind(
        lambda stage: (stage.node("a", location="Europe"), stage.node("b", location="Asia")),
        {"location": "Africa", "location_mode": "strict"},
        "in another region",
        [("location_mode", "prefer"), ("location", "europe"), ("location", "Any")],
    ),
    "all nodes draining": Kind(
        _drained,
        {},
        "draining",
        [("", "")],
        act=lambda stage: stage.nodes[0].drain(draining=False),
        act_words="resumes it",
        hopeless=False,
    ),
    "a node whose Docker has stopped": Kind(
        lambda stage: stage.node("a", docker_status=ENGINE_AWAY),
        {},
        "draining",
        [("", "")],
        act=lambda stage: stage.nodes[0].register(docker_status="running"),
        act_words="starts Docker there again",
        hopeless=False,
    ),
    "all nodes offline": Kind(
        _silent,
        {},
        "offline",
        [("", "")],
        act=lambda stage: stage.nodes[0].report(),
        act_words="starts it again",
        hopeless=False,
    ),
    "all nodes busy": Kind(_busy, {"memory_gb": 2}, "busy: memory", [("memory_gb", "1")], hopeless=False),
    "no task slot free": Kind(
        _out_of_slots,
        {},
        "busy: task slots",
        [("", "")],
        act=lambda stage: stage.nodes[0].register(max_tasks=4, docker_status="running"),
        act_words="--max-tasks",
        hopeless=False,
    ),
    "the owner's credit opens none of the nodes": Kind(
        _without_credit,
        {},
        "trust tier above what the owner's credit opens",
        [("", "")],
        act=lambda stage: set_credit(stage.pool, stage.user, 50),
        act_words="a credit score of 50 or more",
    ),
    "no node is trusted enough": Kind(
        lambda stage: _two(stage, docker_status="unavailable"),
        {"min_trust": "normal"},
        "below the trust that it asks for",
        [("min_trust", "any")],
    ),
}


def waiting_reason(stage: Stage, explain: Callable[[], pb.ExplainTaskResponse], clause: str) -> Any:
    """What is said as soon as the gateway has seen the stage's nodes as they are."""
    answers: list[pb.ExplainTaskResponse] = []

    def seen() -> bool:
        answers[:] = [explain()]
        clauses = {each.clause for each in answers[0].failed}
        if clause != "offline" and "offline" in clauses:
            return False  # seen between its registration and its first report
        # The line is kept for a moment as well: an earlier test's task may still be in it.
        return (answers[0].nodes_looked_at, answers[0].waiting_tasks) == (len(stage.nodes), 1) and (
            clause in clauses
        )

    stage.pool.wait(seen, f"nodes are kept out because of: {clause}")
    return answers[0]


def followed(asks: dict[str, Any], suggestion: pb.Suggestion) -> dict[str, Any]:
    """The task as its owner submits it after having read field and value, and nothing else."""
    value: Any = int(suggestion.value) if suggestion.field in AMOUNTS else suggestion.value
    return {**asks, suggestion.field: value}


@pytest.mark.parametrize("what", KINDS)
def test_a_stuck_task_is_told_why_and_every_suggestion_places_it(stage: Stage, what: str) -> None:
    kind = KINDS[what]
    kind.nodes(stage)
    task_id = stage.submit(**kind.asks)
    answer = waiting_reason(stage, lambda: explained(stage.user, task_id), kind.clause)
    assert answer.state == "QUEUED"
    assert not answer.places_now
    assert kind.clause in answer.message
    assert answer.can_never_run is kind.hopeless
    assert (answer.position, answer.waiting_tasks) == (1, 1)
    assert [(each.field, each.value) for each in answer.suggestions] == kind.suggested
    dry = waiting_reason(stage, lambda: explained(stage.user, **kind.asks), kind.clause)
    assert list(dry.suggestions) == list(answer.suggestions)
    for suggestion in answer.suggestions:
        assert suggestion.nodes >= 1
        if suggestion.field:
            stage.finish(stage.placed(**followed(kind.asks, suggestion)))
            assert stage.user.detail(task_id).state == "QUEUED"
        else:
            assert kind.act is not None
            assert kind.act_words in suggestion.sentence
            kind.act(stage)
            stage.wait_placed(stage.submit(**kind.asks))


def test_a_task_for_a_node_that_is_gone_runs_when_it_names_none(stage: Stage) -> None:
    gone = stage.node("gone")
    gone.leave()
    stage.nodes.clear()
    stage.node("a")
    owner = stage.owner
    task_id = stage.submit_to(gone, owner)
    answer = waiting_reason(stage, lambda: explained(owner, task_id), "not the node asked for")
    assert answer.can_never_run
    assert [(each.field, each.value, each.nodes) for each in answer.suggestions] == [("node_id", "any", 1)]
    assert "could ever run it" in answer.estimate_basis
    assert answer.estimated_wait_seconds < 0
    stage.placed()
    owner.stop(task_id)


def test_every_state_is_told_as_it_is(stage: Stage) -> None:
    stage.node("a")
    task_id = stage.placed(cpu_score=250)
    for state, basis in (
        ("PLACED", "it has a node"),
        ("RUNNING", "it has a node"),
        ("SUCCEEDED", "it has ended"),
    ):
        if state == "RUNNING":
            stage.nodes[0].claim(stage.nodes[0].attempt(task_id))
        if state == "SUCCEEDED":
            stage.nodes[0].finish(stage.nodes[0].end(stage.nodes[0].attempt(task_id)))
        answer = explained(stage.user, task_id)
        assert (answer.state, answer.estimate_basis, answer.places_now) == (state, basis, False)
        assert (answer.position, answer.estimated_wait_seconds) == (0, 0.0)
        assert answer.message
        assert (answer.price_per_minute_cpt, answer.max_price_cpt, answer.max_minutes) == (3, 180, 60)


def test_a_dry_run_tells_node_and_price_and_keeps_nothing(stage: Stage) -> None:
    stage.node("a", memory_gb=8)
    asks = {"memory_gb": 2, "cpu_score": 1050, "max_minutes": 7, "task_zip": b"not a ZIP at all"}
    answer = pb.ExplainTaskResponse()

    def seen() -> bool:
        answer.CopyFrom(explained(stage.user, **asks))
        return answer.best_node == stage.nodes[0].node_id

    stage.pool.wait(seen, "the node would take it")
    assert answer.places_now
    assert (answer.state, answer.position, answer.estimated_wait_seconds) == ("", 0, 0.0)
    assert (answer.price_per_minute_cpt, answer.max_price_cpt, answer.max_minutes) == (13, 91, 7)
    listed = stage.user.stubs.tasks.GetAllTasks(pb.GetAllTasksRequest(), metadata=stage.user.metadata)
    assert not listed.tasks


@pytest.mark.parametrize(
    ("asks", "code"),
    [
        ({"location": "Atlantis"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"memory_gb": -1}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"cpu_score": 2_000_000_000}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"max_minutes": 2_000_000_000}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"priority": 10}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"image": "evil"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"network": True}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"location_mode": "maybe"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"task_id": "../../etc"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"min_trust": "high"}, grpc.StatusCode.PERMISSION_DENIED),
    ],
)
def test_a_dry_run_is_refused_for_what_a_submit_is_refused_for(
    stage: Stage, asks: dict[str, Any], code: grpc.StatusCode
) -> None:
    request = pb.ExplainTaskRequest(task=pb.UploadTaskRequest(**asks))
    call = stage.user.stubs.tasks.ExplainTask
    dry = refused(lambda: call(request, metadata=stage.user.metadata, timeout=CALL_SECONDS))
    real = refused(lambda: stage.user.submit(PACKAGE, **asks))
    assert dry == real
    assert dry[0] is code


def test_only_its_owner_may_ask_and_only_of_what_is_there(stage: Stage) -> None:
    stage.node("a", memory_gb=1)
    task_id = stage.submit(memory_gb=8)
    assert refused(lambda: explained(stage.owner, task_id))[0] is grpc.StatusCode.NOT_FOUND
    assert refused(lambda: explained(stage.user, new_task_id()))[0] is grpc.StatusCode.NOT_FOUND
    nothing = pb.ExplainTaskRequest()
    call = stage.user.stubs.tasks.ExplainTask
    assert refused(lambda: call(nothing, metadata=stage.user.metadata))[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert refused(lambda: call(nothing))[0] is grpc.StatusCode.UNAUTHENTICATED
