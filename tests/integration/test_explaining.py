"""ExplainTask on a real Valkey and real SQL: position, estimate, what is kept, and what is away."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, update

from gateway import context
from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from gateway.usecases import explain_task
from gateway.usecases.explain_task import Explainer
from nodepool.domain.errors import UnavailableError
from nodepool.domain.resources import Claim, Resources
from nodepool.domain.scheduling.fair_share import Decay
from nodepool.domain.tasks.clauses import Clause, ClauseKind
from nodepool.domain.tasks.reasons import no_node, told
from nodepool.domain.tasks.states import TaskState
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.settings import Settings
from nodepool.stores.redis import keys
from nodepool.stores.redis.usage import UsageStore
from nodepool.stores.sql import tasks as task_store
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.placements import Placement, place_all
from nodepool.stores.sql.reason_columns import reason_columns
from nodepool.stores.sql.tables import nodes
from tests.support.environment import free_port
from tests.support.reservations import reserve
from tests.support.stores import add_node, add_task, add_user
from tests.support.valkey import TestValkey

START = 1_000_000.0


@dataclass
class Asking:
    """A gateway without a server, its explainer, a user, and clocks that move when a test says so."""

    gateway: Gateway
    now: list[float]
    user_id: int

    def __post_init__(self) -> None:
        self.explainer = Explainer(self.gateway, lambda: self.now[0])

    def pass_time(self, seconds: float = 10.0) -> None:
        """Long enough that nothing that is kept is kept any longer."""
        self.now[0] += seconds

    def node(self, node_id: str, **facts: Any) -> None:
        self.gateway.database.write(lambda c: add_node(c, self.user_id, node_id, now=self.now[0], **facts))
        self.gateway.lifecycle.sync_node(node_id)
        self.gateway.redis.set(keys.report(node_id), "{}", ex=keys.REPORT_TTL_SECONDS)

    def user(self, name: str) -> int:
        return self.gateway.database.write(lambda c: add_user(c, name))

    def task(self, owner_id: int = 0, **columns: Any) -> str:
        now = self.now[0]
        columns = {"created_at": now, "updated_at": now, "hinted_at": now, "queued_at": now, **columns}
        return self.gateway.database.write(lambda c: add_task(c, owner_id or self.user_id, **columns))

    def start(self, task_id: str, node_id: str) -> None:
        """As a dispatcher would."""
        claim = Claim(0, 512, 0, 0)
        placement = Placement(task_id, 1, node_id, claim, f"{task_id}:1")
        reserve(self.gateway.registry, node_id, placement.attempt_id, claim, at=self.now[0])
        now = self.now[0]
        assert self.gateway.database.write(lambda c: place_all(c, [placement], now)).placed == {task_id}

    def ask(self, task_id: str = "", **needs: Any) -> pb.ExplainTaskResponse:
        request = pb.ExplainTaskRequest(task_id=task_id)
        if not task_id:
            request = pb.ExplainTaskRequest(task=pb.UploadTaskRequest(**needs))
        return self.explainer.explain(CallerIdentity(self.user_id, "owner", "user"), request)


def _rich_user(connection: Connection) -> int:
    """A dry run is refused to those who could not pay."""
    user_id = add_user(connection)
    ledger_store.open_account(connection, user_id, grant=10**9, now=START)
    return user_id


def settings_of(url: str, database_url: str, folder: Path) -> Settings:
    return Settings.model_validate(
        {"redis_url": url, "database_url": database_url, "task_storage_path": folder / "storage"}
    )


@pytest.fixture
def asking(valkey: TestValkey, database_url: str, tmp_path: Path) -> Iterator[Asking]:
    now = [START]
    gateway = context.build(settings_of(valkey.url, database_url, tmp_path), lambda: now[0])
    yield Asking(gateway, now, gateway.database.write(_rich_user))
    gateway.close()


def test_users_take_turns_in_the_line_and_a_dry_run_has_no_place_in_it(asking: Asking) -> None:
    other = asking.user("other")
    for number in range(5):
        asking.task(other, cpu_score=1000, created_at=START - 100 + number)
    mine = asking.task(cpu_score=60_000)
    answer = asking.ask(mine)
    assert (answer.position, answer.waiting_tasks) == (2, 6)
    dry = asking.ask(cpu_score=60_000)
    assert (dry.position, dry.waiting_tasks) == (0, 6)


def test_who_was_served_much_lately_waits_behind_who_was_not(asking: Asking) -> None:
    other = asking.user("other")
    asking.task(other)
    usage = UsageStore(asking.gateway.redis, Decay(asking.gateway.settings.fair_share_half_life_seconds))
    mine = asking.task(created_at=START - 50)
    assert asking.ask(mine).position == 1
    usage.add({asking.user_id: 50.0}, START)
    asking.pass_time()
    assert asking.ask(mine).position == 2


def test_the_wait_is_reckoned_from_what_was_started_where_it_can_run(asking: Asking) -> None:
    asking.node("can", max_tasks=3)
    asking.node("cannot", total=Resources(cpu_score=4000, memory_gb=1), max_tasks=8)
    for number in range(3):
        asking.start(asking.task(), "can" if number else "cannot")
    asking.start(asking.task(), "can")
    first, mine = asking.task(memory_gb=2, created_at=START - 1), asking.task(memory_gb=2)
    answer = asking.ask(mine)
    assert [each.clause for each in answer.failed] == ["too small: memory", "busy: task slots"]
    assert (answer.position, answer.estimated_wait_seconds) == (2, 2 * 600 / 3)
    assert "3 tasks were started in the last 10 minutes on the 1 node" in answer.estimate_basis
    assert asking.ask(first).estimated_wait_seconds == 600 / 3
    asking.pass_time(601)
    asking.gateway.redis.set(keys.report("can"), "{}", ex=keys.REPORT_TTL_SECONDS)
    answer = asking.ask(mine)
    assert answer.estimated_wait_seconds < 0
    assert "nothing was started in the last 10 minutes" in answer.estimate_basis


def test_tasks_that_no_node_can_run_hold_nobody_up(asking: Asking) -> None:
    asking.node("a", max_tasks=1)
    asking.start(asking.task(), "a")
    other = asking.user("other")
    reason = no_node(1, {Clause(ClauseKind.TOO_SMALL, "memory_mb"): 1}, hopeless=True)
    asking.task(other, memory_gb=500, created_at=START - 9, **reason_columns(reason))
    mine = asking.task()
    answer = asking.ask(mine)
    assert (answer.position, answer.estimated_wait_seconds) == (2, 600.0)


def test_a_node_on_probation_is_not_asked_for_more_slots(asking: Asking) -> None:
    asking.node("a", max_tasks=4)
    rules = asking.gateway.settings.history_rules
    asking.gateway.database.write(lambda c: c.execute(update(nodes).values(bad_streak=rules.probation_after)))
    asking.gateway.lifecycle.sync_node("a")
    asking.start(asking.task(), "a")
    answer = asking.ask(asking.task())
    assert [each.clause for each in answer.failed] == ["busy: task slots"]
    assert not answer.suggestions


def test_nodes_that_failed_the_task_before_are_taken_last(asking: Asking) -> None:
    asking.node("a")
    asking.node("b")
    task_id = asking.task()
    assert asking.ask(task_id).best_node == "a"
    asking.start(task_id, "a")
    asking.gateway.lifecycle.lose_attempt(f"{task_id}:1", "a", asking.user_id, told("it was lost"))
    asking.pass_time()
    answer = asking.ask(task_id)
    assert (answer.state, answer.best_node, answer.places_now) == ("QUEUED", "b", True)


def test_a_task_that_prefers_its_region_takes_another_after_its_patience(asking: Asking) -> None:
    asking.node("a", region="europe")
    task_id = asking.task(region="asia", location_mode="prefer")
    answer = asking.ask(task_id)
    assert not answer.places_now
    assert not answer.can_never_run
    assert answer.estimated_wait_seconds == asking.gateway.settings.region_patience_seconds
    asking.pass_time(31)
    asking.node("a", region="europe")
    answer = asking.ask(task_id)
    assert (answer.places_now, answer.best_node, answer.estimated_wait_seconds) == (True, "a", 0.0)


def test_a_flood_of_questions_is_one_look(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    asking.node("a")
    task_id = asking.task(memory_gb=64)
    looks: list[float] = []
    snapshot = asking.gateway.registry.snapshot

    def counted(late_seconds: float) -> Any:
        looks.append(late_seconds)
        return snapshot(late_seconds)

    monkeypatch.setattr(type(asking.gateway.registry), "snapshot", lambda self, late: counted(late))
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: asking.ask(task_id).message, range(100)))
    assert len(looks) == 1
    assert len(set(answers)) == 1
    asking.pass_time(1.5)
    asking.ask(task_id)
    assert len(looks) == 2


def test_many_kinds_of_question_at_once_get_the_answers_of_their_own(asking: Asking) -> None:
    asking.node("a", total=Resources(cpu_score=4000, memory_gb=8))
    sizes = list(range(1, 400))
    barrier = threading.Barrier(4)

    def ask(start: int) -> list[bool]:
        barrier.wait(60)
        return [asking.ask(memory_gb=size).places_now == (size <= 8) for size in sizes[start::4]]

    with ThreadPoolExecutor(4) as threads:
        assert all(all(right) for right in threads.map(ask, range(4)))


def test_a_line_too_long_to_be_played_through_says_so(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain_task, "_MAX_IN_ORDER", 3)
    for number in range(5):
        asking.task(created_at=START - 100 + number)
    mine = asking.task()
    answer = asking.ask(mine)
    assert (answer.position, answer.waiting_tasks) == (4, 6)
    assert answer.estimate_basis.endswith("of 6 that wait only the oldest 3 were put in order")


def test_without_redis_what_waits_cannot_be_explained_and_what_has_ended_can(
    database_url: str, tmp_path: Path
) -> None:
    url = f"redis://127.0.0.1:{free_port()}"
    gateway = context.build(settings_of(url, database_url, tmp_path), lambda: START)
    try:
        asking = Asking(gateway, [START], gateway.database.write(_rich_user))
        waiting, ended = asking.task(), asking.task(state=TaskState.STOPPED, reason="stopped by its owner")
        for ask in (lambda: asking.ask(waiting), lambda: asking.ask(memory_gb=1)):
            with pytest.raises(UnavailableError, match=r"Redis cannot be reached.* accepted is kept"):
                ask()
        answer = asking.ask(ended)
        assert (answer.state, answer.message) == ("STOPPED", "stopped by its owner")
        assert gateway.database.read(lambda c: task_store.find(c, waiting)).state == TaskState.QUEUED
    finally:
        gateway.close()
