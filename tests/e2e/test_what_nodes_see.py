"""A node must not see what it is measured by: what it is told of a run has one form, whatever it is for."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy import select

from hivemind.uploading import new_task_id
from nodepool.domain.tasks.package_rules import ENTRY_SCRIPTS
from nodepool.domain.tasks.states import TaskKind
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql.tables import attempts, tasks
from tests.support.pool import PoolFactory, TestPool
from tests.support.rogue import SETTINGS, RogueNode
from tests.support.tasks import result_of_run, script, unpacked

SOURCE = "open('out.txt', 'w').write('42')\n"
NEEDS: dict[str, Any] = {"max_minutes": 7, "memory_gb": 1}
KINDS = {kind.value for kind in TaskKind}


@dataclass
class Seen:
    """What a node was told of one run: in Redis, by Celery, at its claim."""

    node: RogueNode
    attempt_id: str
    entry: dict[str, Any]
    message: dict[str, Any]
    spec: pb.AttemptSpec
    package: bytes


@dataclass
class Watch:
    """Nodes of four owners that do what they are given, and remember all that they were told."""

    pool: TestPool
    folder: Path
    nodes: list[RogueNode] = field(default_factory=list)
    seen: dict[str, list[Seen]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def kind_of(self, attempt_id: str) -> str:
        """As only the database knows it."""
        query = select(tasks.c.kind).join(attempts, attempts.c.task_id == tasks.c.id)
        (task,) = self.pool.rows(query.where(attempts.c.id == attempt_id))
        return str(task.kind)

    def work(self) -> None:
        admin = self.pool.valkey.admin
        for node in self.nodes:
            node.report()
            for name in list(admin.hkeys(f"node:{node.node_id}:assigned")):
                self.run(node, str(name))

    def run(self, node: RogueNode, attempt_id: str) -> None:
        admin = self.pool.valkey.admin
        if any(attempt_id == it.attempt_id for kind in KINDS for it in self.seen[kind]):
            return
        messages = [_opened(text) for text in admin.lrange(f"node.{node.node_id}", 0, -1)]
        message = next((it for it in messages if attempt_id in json.dumps(it)), None)
        if message is None:
            return  # it comes a moment later
        entry = json.loads(str(admin.hget(f"node:{node.node_id}:assigned", attempt_id)))
        spec, package = node.claim_whole(attempt_id)
        self.seen[self.kind_of(attempt_id)].append(Seen(node, attempt_id, entry, message, spec, package))
        folder = self.folder / attempt_id.replace(":", "-")
        assert node.finish_with(attempt_id, result_of_run(package, folder)).success


@pytest.fixture(scope="module")
def watch(pool_factory: PoolFactory, tmp_path_factory: pytest.TempPathFactory) -> Watch:
    """Every kind of run has been on some node."""
    settings = {**SETTINGS, "AUDIT_SHARE": "0.1", "PROBE_HOURS": "24"}
    pool = pool_factory(agents=0, settings=settings)
    watch = Watch(pool, tmp_path_factory.mktemp("runs"))
    user = pool.register_user()
    user.submit(script(SOURCE), new_task_id(), **NEEDS)
    for _ in range(4):
        facts = {"docker_status": "running", "cpu_score": 40, "cpu_cores": 1}
        watch.nodes.append(RogueNode(pool, pool.register_user()).join(**facts))
    user.submit(script(SOURCE), new_task_id(), replicas=2, **NEEDS)

    def all_seen() -> bool:
        watch.work()
        return all(watch.seen.values()) and len(watch.seen[TaskKind.PROBE]) > 1

    pool.wait(all_seen, "a task, a replica, a check and two probes were given to some node")
    return watch


def test_ids_and_numbers_tell_nothing(watch: Watch) -> None:
    for kind in KINDS:
        for it in watch.seen[kind]:
            assert re.fullmatch(r"[0-9a-f]{32}:1", it.attempt_id), kind
            assert re.fullmatch(r"task_\d{8}_\d{6}_[0-9a-f]{8}", it.spec.task_id), kind
            assert (it.spec.attempt_id, it.spec.attempt_number) == (it.attempt_id, 1)


def test_messages_have_one_form(watch: Watch) -> None:
    forms = {kind: {_form(it) for it in watch.seen[kind]} for kind in KINDS}
    assert len(set.union(*forms.values())) == 1, forms


def _opened(text: str | bytes) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(text)
    return {**message, "body": json.loads(base64.b64decode(message["body"]))}


def _form(seen: Seen) -> str:
    """Without what differs from one message to the next."""
    text = json.dumps([seen.entry, seen.message], sort_keys=True)
    text = text.replace(seen.attempt_id, "ATTEMPT").replace(seen.spec.task_id, "TASK")
    text = re.sub(r"rogue\b|user-[0-9a-f]{8}", "NODE", text)
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "UUID", text)
    return re.sub(r"\d+(\.\d+)?", "N", text)


def test_needs_and_packages_are_such_as_users_have(watch: Watch) -> None:
    fields = {kind: {name.name for name, _ in watch.seen[kind][0].spec.ListFields()} for kind in KINDS}
    # A user may ask for no points of a CPU, and a probe never does.
    assert len({frozenset(names - {"cpu_score"}) for names in fields.values()}) == 1, fields
    for it in watch.seen[TaskKind.PROBE]:
        assert it.spec.max_run_seconds == NEEDS["max_minutes"] * 60
        assert it.spec.memory_gb == NEEDS["memory_gb"]
        files = unpacked(it.package)
        source = next(files[name] for name in ENTRY_SCRIPTS if name in files).decode()
        assert not re.search(r"probe|hivemind|pool\b|chain", source, re.IGNORECASE)


def test_no_two_probes_read_alike(watch: Watch) -> None:
    sources = []
    for it in watch.seen[TaskKind.PROBE]:
        files = unpacked(it.package)
        sources.append(next(files[name] for name in ENTRY_SCRIPTS if name in files))
    lines = [set(source.decode().splitlines()) for source in sources]
    assert len(lines) > 1
    for index, one in enumerate(lines):
        for other in lines[index + 1 :]:
            # Imports and blank ends of lines are left; nothing that names the program.
            assert len(one & other) < len(one) / 2


def test_a_probe_cannot_be_asked_after_like_a_users_task_or_otherwise(watch: Watch) -> None:
    """Its node's owner, and anybody else, hears the same of both."""
    own = {kind: _answers(watch.seen[kind][0].node, watch.seen[kind][0]) for kind in KINDS}
    assert len({tuple(said) for said in own.values()}) == 1, own
    user_and_probe = TaskKind.USER, TaskKind.PROBE
    others = {
        kind: _answers(_another(watch, watch.seen[kind][0]), watch.seen[kind][0]) for kind in user_and_probe
    }
    assert others[TaskKind.USER] == others[TaskKind.PROBE]


def _another(watch: Watch, seen: Seen) -> RogueNode:
    """One that has nothing to do with the task: no attempt of it or of its check was given to it."""
    query = select(attempts.c.node_id).join(tasks, attempts.c.task_id == tasks.c.id)
    of_it = (tasks.c.id == seen.spec.task_id) | (tasks.c.parent_id == seen.spec.task_id)
    mine = {row.node_id for row in watch.pool.rows(query.where(of_it))}
    return next(node for node in watch.nodes if node.node_id not in mine)


def _answers(node: RogueNode, seen: Seen) -> list[str]:
    account = node.account
    said = []
    for call, request in (
        (account.stubs.tasks.PollTaskStatus, pb.PollTaskStatusRequest(task_id=seen.spec.task_id)),
        (account.stubs.tasks.StopTask, pb.StopTaskRequest(task_id=seen.spec.task_id)),
        (account.stubs.tasks.StoreOutput, pb.StoreOutputRequest(task_id=seen.spec.task_id, output="x")),
        (account.stubs.tasks.UploadTask, pb.UploadTaskRequest(
            task_id=seen.spec.task_id, task_zip=script("1"), max_minutes=1)),
    ):  # fmt: skip
        with pytest.raises(grpc.RpcError) as refused:
            call(request, metadata=account.metadata, timeout=60)
        said.append(f"{refused.value.code()} {refused.value.details()}".replace(seen.spec.task_id, "TASK"))
    return said
