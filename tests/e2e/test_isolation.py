"""Whose tasks a node runs, and what a stranger's task can get at there, at each level of isolation."""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from nodepool.domain.nodes.isolation import Isolation
from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.hostile import refused
from tests.support.pool import PoolOptions, TestAgent, TestPool
from tests.support.processes import open_folder
from tests.support.spy import (
    ORDINARY_UID,
    as_ordinary_user,
    needs_ordinary_user,
    spied,
    spy,
    spy_as,
    without_bubblewrap,
)
from tests.support.tasks import script
from worker_agent.trash import remove_tree

PLAIN, SAFE, AS_ROOT = "Asia", "Europe", "Africa"


class Stage:
    """A pool whose agents are alike but for how far they keep tasks from themselves, each in its region."""

    def __init__(self, folder: Path) -> None:
        self.pool = TestPool(folder, PoolOptions(agents=0, accept_strangers=False))
        self.pool.start()
        self.agents = {
            SAFE: self._ordinary("bubblewrap", SAFE, bubblewrap=True),
            PLAIN: self._ordinary("plain", PLAIN, bubblewrap=False),
            AS_ROOT: self.pool.add_agent(
                "root", location=AS_ROOT, within=("env", f"PATH={without_bubblewrap(folder)}"), wait=False
            ),
        }
        for agent in self.agents.values():
            self.pool.wait_online(agent)
        self.stranger = self.pool.register_user("eve")
        # What somebody else has run at the same agent.
        self.code = f"x = {secrets.token_hex(12)!r}"
        for location in (SAFE, AS_ROOT):
            task_id = self.pool.owner.submit(script(self.code), location=location)
            self.pool.owner.wait_for(task_id, "COMPLETED")

    def _ordinary(self, name: str, location: str, *, bubblewrap: bool) -> TestAgent:
        folder = self.pool.folder / f"agent-{name}"
        folder.mkdir()
        os.chown(folder, ORDINARY_UID, ORDINARY_UID)
        within = as_ordinary_user(bubblewrap=bubblewrap, folder=self.pool.folder)
        return self.pool.add_agent(name, location=location, within=within, wait=False)

    def secrets(self) -> list[str]:
        """What nobody's task may ever see."""
        with closing(sqlite3.connect(self.pool.folder / "users.db")) as database:
            (hashed,) = database.execute(
                "SELECT password_hash FROM users WHERE username = 'owner'"
            ).fetchone()
        pool = self.pool
        return [self.code, pool.owner.password, pool.valkey.password, hashed,
                *((pool.folder / f"{name}.secret").read_text() for name in ("jwt", "storage"))]  # fmt: skip

    def node(self, location: str) -> pb.WorkerNodeInfo:
        wanted = self.agents[location].node_id
        return next(node for node in self.stranger.node_list() if node.node_id == wanted)

    def spies(self, account: Account, location: str) -> str:
        """The output of a task that looks for all of that."""
        source = spy(self.secrets(), ["/tmp", "/var/tmp", "/dev/shm", "/run", "/root", "/home", "/var/lib"])
        task_id = account.submit(script(source), location=location)
        account.wait_for(task_id, "COMPLETED")
        return account.logs(task_id)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    folder = open_folder()
    needs_ordinary_user(folder)
    made = Stage(folder)
    try:
        yield made
    finally:
        made.pool.close()
        remove_tree(folder)


def explained(account: Account, task_id: str) -> pb.ExplainTaskResponse:
    request = pb.ExplainTaskRequest(task_id=task_id)
    return account.stubs.tasks.ExplainTask(request, metadata=account.metadata, timeout=CALL_SECONDS)


def test_the_pool_tells_how_far_each_node_keeps_tasks_apart(stage: Stage) -> None:
    assert (stage.node(SAFE).isolation, stage.node(SAFE).owner_only) == (Isolation.BUBBLEWRAP, False)
    assert (stage.node(PLAIN).isolation, stage.node(PLAIN).owner_only) == (Isolation.NONE, True)


def test_a_strangers_task_never_runs_where_it_could_read_the_agent_and_explain_says_so(stage: Stage) -> None:
    eve, pool = stage.stranger, stage.pool
    task_id = eve.submit(script("print('it ran')"), location=PLAIN, location_mode="strict")
    pool.wait(lambda: "tasks of its owner only" in eve.detail(task_id).reason, "the task is told why")
    answer = explained(eve, task_id)
    assert [clause.nodes for clause in answer.failed if "tasks of its owner only" in clause.clause] == [1]
    assert "Any" in [one.value for one in answer.suggestions]
    assert answer.can_never_run
    pinned = pb.ExecuteTaskRequest(
        task_id=f"{task_id}-pinned", node_id=stage.agents[PLAIN].node_id, task_zip=script("print('it ran')")
    )
    workers = eve.stubs.workers
    refused(lambda: workers.ExecuteTask(pinned, metadata=eve.metadata, timeout=CALL_SECONDS))
    assert eve.detail(task_id).state == "QUEUED"
    eve.stop(task_id)


def test_its_owners_tasks_run_there_all_the_same(stage: Stage) -> None:
    owner = stage.pool.owner
    task_id = owner.submit(script("print('mine')"), location=PLAIN)
    owner.wait_for(task_id, "COMPLETED")
    assert owner.detail(task_id).assigned_node == stage.agents[PLAIN].node_id
    assert "mine" in owner.logs(task_id)


@pytest.mark.parametrize("location", [SAFE, AS_ROOT])
def test_where_strangers_tasks_run_they_see_no_secret_and_no_process_of_others(
    stage: Stage, location: str
) -> None:
    if stage.node(location).owner_only:
        return  # nothing of theirs runs there, as above
    found = spied(stage.spies(stage.stranger, location))
    assert found.seen == []
    assert found.looked_into == {}


def test_a_process_of_the_agents_own_user_cannot_look_into_it(stage: Stage) -> None:
    found = spy_as(ORDINARY_UID, stage.secrets(), [], stage.pool.folder)
    assert found.of([stage.agents[SAFE].pid, stage.agents[PLAIN].pid]) == {}
    assert [place for place in found.seen if "/proc/" in place] == []


def test_the_agent_itself_refuses_what_a_pool_sends_it_all_the_same(stage: Stage) -> None:
    eve, pool, node_id = stage.stranger, stage.pool, stage.agents[PLAIN].node_id

    def believe(level: str) -> None:
        with closing(sqlite3.connect(pool.folder / "users.db", timeout=60)) as database, database:
            database.execute("UPDATE nodes SET isolation = ? WHERE id = ?", (level, node_id))

    task_id = eve.submit(script("print('it ran')"), location=PLAIN)
    believe(Isolation.CONTAINER)
    try:
        pool.wait(lambda: len(eve.detail(task_id).attempts) > 0, "the pool has sent it there")
        pool.wait(lambda: eve.detail(task_id).attempts[0].state == "refused", "the agent has refused it")
    finally:
        believe(Isolation.NONE)
    assert "this node runs its owner's tasks only" in eve.detail(task_id).attempts[0].reason
    pool.wait(lambda: eve.detail(task_id).state in ("QUEUED", "FAILED"), "it is given back")
    assert "it ran" not in eve.logs(task_id)
    eve.stop(task_id)


def test_no_node_belongs_to_an_admin(stage: Stage) -> None:
    pool = stage.pool
    with closing(sqlite3.connect(pool.folder / "users.db", timeout=60)) as database, database:
        boss = pool.register_user("boss")
        database.execute("UPDATE users SET role = 'admin' WHERE username = 'boss'")
    request = pb.RegisterWorkerNodeRequest(node_id="boss/n", kind="agent", cpu_cores=1, memory_gb=1)

    def status() -> str:
        code, message = refused(
            lambda: boss.stubs.nodes.RegisterWorkerNode(request, metadata=boss.metadata, timeout=CALL_SECONDS)
        )
        return f"{code.name} {message}" if code is grpc.StatusCode.PERMISSION_DENIED else ""

    pool.wait(status, "the gateway has seen the new role")
    assert "nodes never belong to" in status()
    assert "hivemind register" in status()
