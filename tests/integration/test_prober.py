"""Probes on a real Valkey, on SQLite and PostgreSQL, with nodes that a test plays."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Row, select, update

from dispatcher import context
from dispatcher.context import open_files
from nodepool.domain.accounts.credentials import check_username
from nodepool.domain.ends.attempt_end import End
from nodepool.domain.errors import InvalidInputError
from nodepool.domain.resources import Resources
from nodepool.domain.tasks.reasons import told
from nodepool.domain.tasks.states import Outcome, TaskState
from nodepool.domain.trust import benchmark_probe
from nodepool.domain.trust.benchmark_probe import DEFAULT_RUN_MEMORY_BYTES, Probe
from nodepool.domain.trust.credit import Cause
from nodepool.settings import Settings
from nodepool.stores.files.file_store import FileStore
from nodepool.stores.sql import (
    admin as admin_store,
    attempts as attempt_records,
    credit as credit_store,
    nodes as node_store,
    probes as probe_store,
    tasks as task_store,
    verification_records,
)
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.tables import nodes, probes as probes_table, tasks, users
from tests.support.fleet import START, Fleet
from tests.support.stores import add_node, add_task, add_user
from tests.support.tasks import package, result_of_run
from tests.support.valkey import TestValkey

HOURS = 24.0
# Small, so that a test computes it in no time.
SCORE = 40
TOTAL = Resources(cpu_score=SCORE, memory_gb=4)


class Pool(Fleet):
    """Nodes of one owner, whose probes the test runs on its own clock."""

    files: FileStore
    folder: Path

    def rogue(self, node_id: str, owner_id: int = 0, **facts: Any) -> str:
        mine, self.owner_id = self.owner_id, owner_id or self.owner_id
        self.node(node_id, total=TOTAL, cpu_cores=2, **facts)
        self.owner_id = mine
        return node_id

    def probe(self, node_id: str) -> Row[Any]:
        """The node's newest."""
        query = (
            select(tasks, probes_table.c.verdict)
            .join(probes_table, probes_table.c.task_id == tasks.c.id)
            .where(probes_table.c.node_id == node_id)
            .order_by(probes_table.c.created_at.desc())
        )
        row = self.dispatcher.database.read(lambda c: c.execute(query).first())
        assert row is not None, f"{node_id} was not probed"
        return row

    def count(self) -> int:
        return len(self.dispatcher.database.read(lambda c: c.execute(select(probes_table)).all()))

    def turn(self, node_id: str, *, after: float = 0.0) -> Row[Any]:
        """A sweep in which the node is given its probe, which it claims."""
        self.sweep(after=after, heard=(node_id,))
        self.sweep(after=1.1, heard=(node_id,))
        probe = self.probe(node_id)
        assert probe.state == TaskState.PLACED, (probe.state, probe.reason)
        owner_id = self.node_row(node_id).owner_id
        self.dispatcher.database.write(
            lambda c: task_store.claim_attempt(c, self.attempt(probe), node_id, owner_id, self.now[0])
        )
        return probe

    def attempt(self, probe: Row[Any]) -> str:
        return self.dispatcher.database.read(lambda c: attempt_records.id_of(c, probe.id, 1))

    def answer(self, probe: Row[Any]) -> bytes:
        """The result of an honest run."""
        return result_of_run(self.files.package_bytes(probe.package_sha256), self.folder / probe.id)

    def from_a_container(self, probe: Row[Any], memory_gb: int = 0) -> bytes:
        """The result of an honest run, as if it had been made in one."""
        row = self.probe_row(probe.id)
        known = Probe.of(row.seed, work=row.work, chains=row.chains)
        memory = ((memory_gb or probe.memory_gb) << 30) or DEFAULT_RUN_MEMORY_BYTES
        seen = f"{memory},1,1,0000000000000000,0000000000000000,True"
        source = known.source()
        look = source.index("seen_ = look_()")
        folder = self.folder / f"{probe.id}-contained"
        folder.mkdir()
        (folder / "main.py").write_text(source[:look] + f"seen_ = {seen!r}" + source[look + 15 :])
        subprocess.run([sys.executable, "main.py"], cwd=folder, check=True)
        return package({known.answer_file: (folder / known.answer_file).read_bytes()})

    def end(
        self, probe: Row[Any], outcome: Outcome = Outcome.SUCCEEDED, *, seconds: float, result: bytes = b""
    ) -> None:
        """The node ends its probe after so long, and the sweep judges it."""
        self.now[0] += seconds
        node_id, attempt = probe.pinned_node, self.attempt(probe)
        self.report(node_id)
        if result:
            with self.files.result_writer(attempt) as writer:
                writer.write(result)
                writer.commit()
        end = End(
            outcome=outcome,
            exit_code=0,
            reason=told("so it was"),
            result_bytes=len(result),
            has_result=bool(result),
        )
        owner_id = self.node_row(node_id).owner_id
        self.dispatcher.lifecycle.end_attempt(attempt, node_id, owner_id, end)
        self.sweep(after=1.1, heard=(node_id,))

    def honest(self, node_id: str, *, seconds: float = 1.5, after: float = 0.0) -> str:
        probe = self.turn(node_id, after=after)
        self.end(probe, seconds=seconds, result=self.answer(probe))
        return str(self.probe_row(probe.id).verdict)

    def probe_row(self, task_id: str) -> Row[Any]:
        query = select(probes_table).where(probes_table.c.task_id == task_id)
        return self.dispatcher.database.read(lambda c: c.execute(query).one())

    def node_row(self, node_id: str) -> Row[Any]:
        query = select(nodes).where(nodes.c.id == node_id)
        return self.dispatcher.database.read(lambda c: c.execute(query).one())

    def until_due(self, node_id: str) -> float:
        """Seconds until the node's next probe."""
        return float(self.node_row(node_id).probe_due_at) - self.now[0]

    def score(self) -> int:
        query = select(users.c.credit_score).where(users.c.id == self.owner_id)
        return int(self.dispatcher.database.read(lambda c: c.execute(query).scalar_one()))

    def causes(self) -> list[str]:
        rows = self.dispatcher.database.read(lambda c: credit_store.history(c, self.owner_id, 100))
        return [row.kind for row in reversed(rows)]

    def capacity(self, node_id: str) -> int:
        return {view.node_id: view.capacity.cpu_score for view in self.dispatcher.registry.snapshot(15)}[
            node_id
        ]


@pytest.fixture
def pool(valkey: TestValkey, tmp_path: Path, database_url: str) -> Iterator[Pool]:
    settings = Settings.model_validate(
        {
            "redis_url": valkey.url,
            "database_url": database_url,
            "task_storage_path": tmp_path,
            "probe_hours": HOURS,
        }
    )
    now = [START]
    dispatcher = context.build(settings, clock=lambda: now[0], steady=lambda: now[0])
    owner_id = dispatcher.database.write(lambda c: add_user(c, "provider", credit_score=40))
    dispatcher.database.write(lambda c: ledger_store.open_account(c, owner_id, now=START))
    pool = Pool(dispatcher, now, owner_id)
    pool.files, pool.folder = open_files(settings), tmp_path
    yield pool
    dispatcher.close()


def test_a_node_is_probed_when_it_has_registered_and_about_a_day_later(pool: Pool) -> None:
    pool.rogue("n1")
    assert pool.honest("n1") == benchmark_probe.ProbeVerdict.RIGHT
    assert pool.count() == 1
    day = HOURS * 3600
    assert 0.01 * day < pool.until_due("n1") < 3.1 * day
    pool.sweep(after=0.5 * pool.until_due("n1"), heard=("n1",))
    pool.sweep(after=2, heard=("n1",))
    assert pool.count() == 1
    assert pool.honest("n1", after=pool.until_due("n1")) == benchmark_probe.ProbeVerdict.RIGHT
    assert pool.count() == 2
    pool.dispatcher.database.write(lambda c: _register_anew(c, pool))
    pool.sweep(after=2, heard=("n1",))
    assert pool.count() == 3


def _register_anew(connection: Any, pool: Pool) -> None:
    add_node(connection, pool.owner_id, "n1", now=pool.now[0], total=TOTAL, cpu_cores=2)


def test_nobody_sees_pays_or_counts_a_probe(pool: Pool) -> None:
    pool.rogue("n1")
    probe = pool.turn("n1")
    database = pool.dispatcher.database
    holds = database.read(lambda c: task_store.find(c, probe.id))
    assert (holds.hold_state, holds.price_per_minute) == (None, 0)
    assert database.read(lambda c: task_store.of_owner(c, pool.owner_id, 10)) == []
    pool.end(probe, seconds=1.0, result=pool.answer(probe))
    assert database.read(ledger_store.verify) == []
    history = pool.node_row("n1")
    assert (history.history_good, history.history_bad) == (0, 0)
    # The files are of no use any more.
    assert not list(pool.folder.rglob("*.zip"))


def test_the_pools_own_user_cannot_log_in_and_is_not_listed(pool: Pool) -> None:
    pool.rogue("n1")
    pool.turn("n1")
    database = pool.dispatcher.database
    row = database.read(
        lambda c: c.execute(select(users).where(users.c.username == probe_store.POOL_USERNAME)).one()
    )
    assert (row.blocked, row.password_hash) == (True, "")
    with pytest.raises(InvalidInputError):
        check_username(row.username)
    listed = database.read(lambda c: admin_store.page_of_users(c, 100, "", ""))
    assert probe_store.POOL_USERNAME not in [user.username for user in listed]


def test_a_right_answer_wins_back_a_point(pool: Pool) -> None:
    pool.rogue("n1")
    assert pool.honest("n1") == benchmark_probe.ProbeVerdict.RIGHT
    assert (pool.score(), pool.causes()) == (41, [Cause.PROBED])


def test_a_wrong_answer_costs_as_a_false_result_does(pool: Pool) -> None:
    pool.rogue("n1")
    probe = pool.turn("n1")
    lie = package({"answer.txt": "\n".join(" ".join(["0" * 32] * 64) for _ in range(2))})
    pool.end(probe, seconds=1.0, result=lie)
    assert pool.probe_row(probe.id).verdict == benchmark_probe.ProbeVerdict.WRONG
    assert (pool.score(), pool.causes()) == (15, [Cause.DIFFERED])
    # A strike, as any false result is, and a pause.
    record = pool.dispatcher.database.read(lambda c: verification_records.of_owner(c, pool.owner_id))
    assert record.strikes == 1
    assert {view.node_id: view.draining for view in pool.dispatcher.registry.snapshot(15)}["n1"]
    # It is asked again soon.
    assert pool.until_due("n1") <= 3 * 3600


def test_no_answer_in_a_success_is_a_wrong_one(pool: Pool) -> None:
    pool.rogue("n1")
    probe = pool.turn("n1")
    pool.end(probe, seconds=1.0)
    assert pool.causes() == [Cause.DIFFERED]


def test_a_node_that_claims_ten_times_its_score_is_corrected_after_three_probes(pool: Pool) -> None:
    pool.rogue("n1")
    believed = pool.capacity("n1")
    for times in range(benchmark_probe.SLOW_TIMES):
        assert pool.capacity("n1") == believed
        assert (
            pool.honest("n1", seconds=10.5, after=4 * 3600 if times else 0)
            == benchmark_probe.ProbeVerdict.SLOW
        )
    assert pool.causes() == [Cause.FALSE_CLAIM]
    assert pool.score() == 25
    assert believed / 12 < pool.capacity("n1") < believed / 8
    assert pool.node_row("n1").cpu_score == SCORE
    # It stays so when the node only says it again.
    pool.dispatcher.database.write(lambda c: _register_anew(c, pool))
    pool.dispatcher.lifecycle.sync_node("n1")
    assert pool.capacity("n1") < believed / 8
    # One that was wronged comes back by what it shows.
    for _ in range(5):
        pool.honest("n1", seconds=0.5, after=4 * HOURS * 3600)
    assert pool.capacity("n1") == believed
    assert pool.causes().count(Cause.FALSE_CLAIM) == 1


def test_a_run_that_was_cut_off_at_its_bound_is_slow(pool: Pool) -> None:
    pool.rogue("n1")
    probe = pool.turn("n1")
    pool.end(probe, Outcome.FAILED, seconds=60.0 * benchmark_probe.MAX_MINUTES + 1)
    assert pool.probe_row(probe.id).verdict == benchmark_probe.ProbeVerdict.SLOW


def test_a_probe_that_fails_says_nothing_while_nobody_elses_succeed(pool: Pool) -> None:
    pool.rogue("n1")
    for times in range(4):
        probe = pool.turn("n1", after=4 * 3600 if times else 0)
        pool.end(probe, Outcome.FAILED, seconds=0.3)
        assert pool.probe_row(probe.id).verdict == benchmark_probe.ProbeVerdict.SILENT
    assert (pool.causes(), pool.node_row("n1").measured_cpu_score) == ([], 0)


def test_a_node_that_never_answers_where_others_do_is_believed_less(pool: Pool) -> None:
    other = pool.dispatcher.database.write(lambda c: add_user(c, "other"))
    pool.rogue("n2", other)
    assert pool.honest("n2") == benchmark_probe.ProbeVerdict.RIGHT
    pool.rogue("n1")
    for times in range(benchmark_probe.SLOW_TIMES):
        probe = pool.turn("n1", after=4 * 3600 if times else 0)
        pool.end(probe, Outcome.FAILED, seconds=0.3)
    assert (pool.causes(), pool.node_row("n1").measured_cpu_score) == (
        [],
        int(SCORE / benchmark_probe.SLOW_FACTOR),
    )


def test_a_busy_node_is_left_alone_and_probed_beside_its_work_when_it_never_rests(pool: Pool) -> None:
    user = pool.dispatcher.database.write(lambda c: add_user(c, "user"))
    pool.rogue("n1")
    assert pool.place(pool.dispatcher.database.write(lambda c: add_task(c, user, cpu_score=10))) == 1
    pool.report("n1")
    pool.sweep(after=2, heard=("n1",))
    assert pool.count() == 0
    for _ in range(2):
        pool.sweep(after=HOURS * 3600, heard=("n1",))
    assert pool.count() == 1
    assert pool.probe("n1").cpu_score == SCORE - 10


def test_a_probe_comes_after_users_tasks_and_is_taken_back_when_it_finds_no_room(pool: Pool) -> None:
    user = pool.dispatcher.database.write(lambda c: add_user(c, "user"))
    pool.rogue("n1", max_tasks=1)
    pool.report("n1")
    pool.sweeper.sweep()  # the probe is made, and waits
    task_id = pool.dispatcher.database.write(lambda c: add_task(c, user, cpu_score=10, tier="low"))
    assert pool.place(task_id) == 1
    assert pool.row(task_id).state == TaskState.PLACED
    probe = pool.probe("n1")
    assert probe.state == TaskState.QUEUED
    pool.sweep(after=31, heard=("n1",))
    pool.sweep(after=2, heard=("n1",))
    assert (pool.probe("n1").state, pool.probe("n1").verdict) == (
        TaskState.STOPPED,
        benchmark_probe.ProbeVerdict.WITHDRAWN,
    )
    assert pool.causes() == []


def test_a_node_that_drains_is_not_probed_and_a_probe_does_not_hold_it(pool: Pool) -> None:
    pool.rogue("n1")
    probe = pool.turn("n1")
    database = pool.dispatcher.database
    database.write(lambda c: node_store.set_draining(c, "n1", draining=True))
    pool.sweep(after=1.1, heard=("n1",))
    assert pool.row(probe.id).stop_requested
    pool.end(probe, Outcome.STOPPED, seconds=0.1)
    assert pool.probe_row(probe.id).verdict == benchmark_probe.ProbeVerdict.WITHDRAWN
    pool.sweep(after=HOURS * 3600 * 3, heard=("n1",))
    assert pool.count() == 1


def test_a_node_that_loses_its_probe_is_asked_again_later_and_not_at_once(pool: Pool) -> None:
    pool.rogue("n1")
    probe = pool.turn("n1")
    pool.end(probe, Outcome.REFUSED, seconds=0.2)
    pool.sweep(after=1.1, heard=("n1",))
    assert pool.probe_row(probe.id).verdict == benchmark_probe.ProbeVerdict.SILENT
    assert pool.causes() == []
    assert pool.count() == 1


def test_nothing_is_probed_where_it_is_off(pool: Pool) -> None:
    object.__setattr__(pool.dispatcher.settings, "probe_hours", 0.0)
    pool.rogue("n1")
    for _ in range(3):
        pool.sweep(after=HOURS * 3600, heard=("n1",))
    assert pool.count() == 0


def test_a_probe_comes_after_the_tasks_of_a_user_who_has_used_much(pool: Pool) -> None:
    user = pool.dispatcher.database.write(lambda c: add_user(c, "user"))
    pool.dispatcher.usage.add({user: 100_000.0}, pool.now[0])
    pool.rogue("n1", max_tasks=1)
    pool.report("n1")
    pool.sweeper.sweep()
    values = {"cpu_score": 10, "tier": "low", "created_at": pool.now[0] + 100}
    task_id = pool.dispatcher.database.write(lambda c: add_task(c, user, **values))
    assert pool.place(task_id) == 1
    assert pool.row(task_id).state == TaskState.PLACED
    assert pool.probe("n1").state == TaskState.QUEUED


# -- Docker, as a probe shows it ------------------------------------------------------------------------
def tier(pool: Pool, node_id: str) -> str:
    return {view.node_id: str(view.tier) for view in pool.dispatcher.registry.snapshot(15)}[node_id]


@pytest.fixture
def trusted(pool: Pool) -> Pool:
    query = update(users).where(users.c.id == pool.owner_id).values(credit_score=70)
    pool.dispatcher.database.write(lambda c: c.execute(query))
    return pool


def test_a_new_node_is_low_until_a_probe_has_run_in_a_container(trusted: Pool) -> None:
    trusted.rogue("n1", believed=False)
    assert tier(trusted, "n1") == "low"
    probe = trusted.turn("n1")
    trusted.end(probe, seconds=1.5, result=trusted.from_a_container(probe))
    assert trusted.probe_row(probe.id).verdict == benchmark_probe.ProbeVerdict.RIGHT
    assert tier(trusted, "n1") == "normal"
    # One that shows none takes it away again, and blames nobody.
    assert trusted.honest("n1", after=trusted.until_due("n1")) == benchmark_probe.ProbeVerdict.RIGHT
    assert (tier(trusted, "n1"), trusted.causes()) == ("low", [])


def test_a_right_answer_from_no_container_shows_no_docker(trusted: Pool) -> None:
    trusted.rogue("n1", believed=False)
    assert trusted.honest("n1") == benchmark_probe.ProbeVerdict.RIGHT
    assert tier(trusted, "n1") == "low"


def test_a_container_with_another_limit_than_was_asked_for_shows_none(trusted: Pool) -> None:
    trusted.rogue("n1", believed=False)
    probe = trusted.turn("n1")
    trusted.end(probe, seconds=1.5, result=trusted.from_a_container(probe, memory_gb=7))
    assert trusted.probe_row(probe.id).verdict == benchmark_probe.ProbeVerdict.RIGHT
    assert tier(trusted, "n1") == "low"


def test_no_engine_is_lost_by_a_probe_that_says_nothing(trusted: Pool) -> None:
    trusted.rogue("n1")
    probe = trusted.turn("n1")
    trusted.end(probe, Outcome.FAILED, seconds=0.3)
    assert tier(trusted, "n1") == "normal"


def test_a_node_that_sits_on_a_probe_has_it_taken_away(pool: Pool) -> None:
    """Its bound is a user's, and nobody waits an hour for an answer of a second."""
    pool.rogue("n1")
    probe = pool.turn("n1")
    assert probe.max_minutes > benchmark_probe.MAX_MINUTES
    pool.sweep(after=60.0 * benchmark_probe.MAX_MINUTES + 2, heard=("n1",))
    assert pool.row(probe.id).stop_requested
    pool.end(probe, Outcome.STOPPED, seconds=1.0)
    assert pool.probe_row(probe.id).verdict == benchmark_probe.ProbeVerdict.SLOW


def test_a_probe_has_the_needs_of_tasks_that_users_sent(pool: Pool) -> None:
    user = pool.dispatcher.database.write(lambda c: add_user(c, "user"))
    like = {"memory_gb": 3, "max_minutes": 17, "package_bytes": 20_000, "state": TaskState.SUCCEEDED}
    pool.dispatcher.database.write(lambda c: add_task(c, user, "task_0123456789abcdef", **like))
    pool.rogue("n1")
    probe = pool.turn("n1")
    assert (probe.memory_gb, probe.max_minutes) == (3, 17)
    assert re.fullmatch("task_[0-9a-f]{16}", probe.id)
    assert 10_000 < probe.package_bytes < 40_000
