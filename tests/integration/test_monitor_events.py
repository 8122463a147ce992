"""A real Flower beside agents that send it whatever they like, each as its own broker user."""

from __future__ import annotations

import base64
import re
import secrets
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
from celery import Celery

from nodepool.domain.nodes.node import NodeKind
from nodepool.domain.nodes.registered_node import RegisteredNode
from nodepool.domain.nodes.worker_events import MAX_TEXT_CHARACTERS
from nodepool.domain.regions import UNKNOWN
from nodepool.domain.resources import Claim
from nodepool.domain.trust.tiers import Tier
from nodepool.messaging import names
from nodepool.stores.redis import broker_users
from nodepool.stores.redis.node_registry import NodeRegistry
from tests.support import bad_events
from tests.support.bad_events import envelope, heartbeat, received
from tests.support.environment import ROOT, free_port
from tests.support.processes import TestProcess, open_folder
from tests.support.stores import add_node, add_user, migrated
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until

EVIL, GOOD, GONE = "worker.evil/n1", "honest/n1", "gone/n1"
LOGIN = "flower:a-flower-password"
MEBIBYTE = 1 << 20
MAX_TASKS = 200
PAGES = (
    "/", "/workers", "/tasks", "/api/workers?status=1", "/api/workers", "/api/tasks?limit=1000", "/metrics",
    f"/worker/{quote('agent@' + EVIL, safe='')}",
    "/tasks/datatable?draw=1&start=0&length=50&order[0][column]=0&order[0][dir]=asc&columns[0][data]=received",
)  # fmt: skip


@dataclass
class Window:
    valkey: TestValkey
    process: TestProcess
    port: int
    agents: dict[str, redis.Redis]

    def get(self, path: str) -> str:
        headers = {"Authorization": "Basic " + base64.b64encode(LOGIN.encode()).decode()}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200
            return str(answer.read().decode())

    def dropped(self, reason: str) -> float:
        pattern = rf'^hivemind_monitor_events_dropped_total{{reason="{reason}"}} (\S+)'
        found = re.search(pattern, self.get("/metrics"), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def send(self, node_id: str, message: bytes, end: str = "worker.heartbeat") -> None:
        self.agents[node_id].publish(f"/0.{names.event_exchange(node_id)}/{end}", message)

    def assert_works(self) -> None:
        """What the honest node says next is shown, on pages that all answer."""
        word = f"['{secrets.token_hex(8)}:1']"
        self.send(GOOD, envelope(received(GOOD, args=word)), "task.received")
        wait_until(lambda: word in self.get("/api/tasks?limit=1000"), "an honest event is shown")
        for page in PAGES:
            self.get(page)
        assert self.process.is_running


def peak_memory(pid: int) -> int:
    """The most that a process ever had, bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[0]) << 10


def node(node_id: str) -> RegisteredNode:
    capacity = Claim(cpu_score=100, memory_mb=1000, gpu_score=0, gpu_memory_gb=0, tasks=2)
    return RegisteredNode(
        node_id=node_id,
        tier=Tier.LOW,
        region=UNKNOWN,
        gpu_name="",
        kind=NodeKind.AGENT,
        draining=False,
        capacity=capacity,
    )


@pytest.fixture(scope="module")
def window() -> Iterator[Window]:
    folder = open_folder()
    valkey = TestValkey(folder / "valkey")
    valkey.start()
    names = (EVIL, GOOD, GONE)
    NodeRegistry(valkey.admin).put_nodes([node(name) for name in names])
    agents = {
        name: redis.Redis.from_url(broker_users.create(valkey.admin, name, base_url=valkey.address))
        for name in names
    }
    port = free_port()
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "REDIS_URL": valkey.url,
        "FLOWER_BASIC_AUTH": LOGIN,
    }
    argv = [sys.executable, "-m", "dispatcher.flower", "--port", str(port), "--max-tasks", str(MAX_TASKS)]
    process = TestProcess("flower", argv, environment, folder, folder / "flower.log")
    made = Window(valkey, process, port, agents)
    process.start()
    try:
        for name in (EVIL, GOOD):

            def shown(name: str = name) -> bool:
                if "listens on" not in process.log():
                    return False
                made.send(name, envelope(heartbeat(name)))
                return f"agent@{name}" in made.get("/api/workers?status=1")

            wait_until(shown, f"Flower shows {name}", 60)
        yield made
        assert process.stop() == 0
    finally:
        process.kill()
        for client in agents.values():
            client.close()
        valkey.close()


def test_a_small_event_that_unpacks_to_much_is_dropped_unopened(window: Window) -> None:
    bomb = bad_events.bomb(EVIL)
    assert len(bomb) < 2048
    window.assert_works()
    before, dropped = peak_memory(window.process.pid), window.dropped("compressed")
    for _ in range(5):
        window.send(EVIL, bomb)
    wait_until(lambda: window.dropped("compressed") == dropped + 5, "all five are dropped")
    window.assert_works()
    assert peak_memory(window.process.pid) - before < 32 * MEBIBYTE


def test_whatever_a_node_sends_is_dropped_and_counted_and_nothing_of_it_stays(window: Window) -> None:
    messages = bad_events.hostile(EVIL, GOOD)
    wanted = Counter(reason for reason, _ in messages.values())
    before = {reason: window.dropped(reason) for reason in wanted}
    for _, message in messages.values():
        window.send(EVIL, message)

    def counted() -> bool:
        now = {reason: window.dropped(reason) - before[reason] for reason in wanted}
        return sum(now.values()) >= len(messages)

    wait_until(counted, "all of them are dropped")
    assert {reason: window.dropped(reason) - before[reason] for reason in wanted} == wanted
    window.assert_works()
    shown = window.get("/api/workers?status=1") + window.get("/metrics") + window.get("/api/tasks?limit=1000")
    for trace in ("<script", "<b>", "onerror", "dispatcher@pool", "worker-joined"):
        assert trace not in shown


def test_what_is_strange_in_a_good_event_is_left_out(window: Window) -> None:
    for message in bad_events.strange(EVIL).values():
        window.send(EVIL, message)
    window.assert_works()
    tasks = window.get("/api/tasks?limit=1000")
    assert "?script?alert(1)?/script?" in tasks
    assert "a" * (MAX_TEXT_CHARACTERS + 1) not in tasks
    assert re.search(rf'"agent@{EVIL}": true', window.get("/api/workers?status=1"))


def test_nobody_speaks_of_another_nodes_task(window: Window) -> None:
    task = received(GOOD)
    window.send(GOOD, envelope(task), "task.received")
    wait_until(lambda: task["uuid"] in window.get("/api/tasks?limit=1000"), "the task is shown")
    before = window.dropped("foreign_task")
    for kind in ("task-received", "task-failed", "task-succeeded"):
        window.send(EVIL, envelope(received(EVIL, uuid=task["uuid"], type=kind)), "task.multi")
    wait_until(lambda: window.dropped("foreign_task") == before + 3, "all three are dropped")
    shown = window.get(f"/api/task/info/{task['uuid']}")
    assert '"state": "RECEIVED"' in shown
    assert f"agent@{GOOD}" in shown


def test_a_node_pushes_out_its_own_tasks_only(window: Window) -> None:
    task = received(GOOD)
    window.send(GOOD, envelope(task), "task.received")
    for _ in range(8):
        window.send(EVIL, envelope([received(EVIL) for _ in range(50)]), "task.multi")
    last = received(EVIL)
    window.send(EVIL, envelope(last), "task.multi")
    wait_until(lambda: last["uuid"] in window.get("/api/tasks?limit=1000"), "the last one is shown")
    tasks = window.get("/api/tasks?limit=1000")
    assert task["uuid"] in tasks
    assert tasks.count(f'"worker": "agent@{EVIL}"') <= MAX_TASKS // 10
    window.assert_works()


def test_channels_that_are_not_a_workers_cannot_be_published_on(window: Window) -> None:
    for end in ("worker.anything", "x", "n2/worker.heartbeat", "worker.heartbeat/x"):
        with pytest.raises(redis.exceptions.NoPermissionError):
            window.send(EVIL, envelope(heartbeat(EVIL)), end)


def test_who_talks_too_much_is_not_listened_to_for_a_while(window: Window) -> None:
    # Of its own: who is muted stays so for a minute.
    noisy = f"noisy/{secrets.token_hex(4)}"
    admin = window.valkey.admin
    NodeRegistry(admin).put_node(node(noisy))
    client = redis.Redis.from_url(broker_users.create(admin, noisy, base_url=window.valkey.address))
    window.agents[noisy] = client
    channel = f"/0.{names.event_exchange(noisy)}/worker.heartbeat"
    wait_until(lambda: admin.pubsub_numsub(channel)[0][1] == 1, "Flower listens to it")
    dropped = window.dropped("rate")
    with client.pipeline(transaction=False) as pipe:
        for _ in range(2000):
            pipe.publish(channel, b"x" * 4000)
        pipe.execute()
    wait_until(lambda: admin.pubsub_numsub(channel)[0][1] == 0, "Flower does not listen any more")
    assert window.dropped("rate") > dropped
    window.assert_works()
    assert window.process.log().count("events were dropped") <= 3


def test_the_kernel_limits_its_memory(window: Window) -> None:
    limits = Path(f"/proc/{window.process.pid}/limits").read_text()
    assert re.search(rf"^Max data size\s+{512 * MEBIBYTE}\s+{512 * MEBIBYTE}\s", limits, re.MULTILINE)


def test_a_dispatcher_is_deaf_to_what_nodes_send_whatever_its_command_line_says(
    window: Window, tmp_path: Path
) -> None:
    """An agent whose node's name begins with `worker.` has channels that match those of Celery's gossip."""
    environment = {
        **window.process.env,
        "CELERY_BROKER_URL": window.valkey.url,
        "DB_PATH": str(tmp_path / "users.db"),
        "TASK_STORAGE_PATH": str(tmp_path / "storage"),
        "JWT_SECRET_KEY": secrets.token_hex(32),
    }
    argv = [sys.executable, "-m", "celery", "-A", "dispatcher", "worker", "--pool", "threads", "-c", "1"]
    log = tmp_path / "dispatcher.log"
    # Users of nodes that it does not know it would take away.
    with migrated(f"sqlite:///{tmp_path / 'users.db'}") as database:
        owner_id = database.write(add_user)
        for name in (EVIL, GOOD, GONE):
            database.write(lambda c, name=name: add_node(c, owner_id, name))
    dispatcher = TestProcess("dispatcher", argv, environment, tmp_path, log)
    dispatcher.start()
    try:
        dispatcher.wait_for_line(" ready.")
        before = peak_memory(dispatcher.pid)
        for message in (bad_events.bomb(EVIL), b"no event", envelope(7, properties={"delivery_tag": None})):
            window.send(EVIL, message)
        # What is answered after it is answered having heard it, or not.
        client = Celery(broker=window.valkey.url, set_as_current=False)
        assert client.control.ping(timeout=60, limit=1)
        assert peak_memory(dispatcher.pid) - before < 32 * MEBIBYTE
        assert "connection" not in dispatcher.log().partition(" ready.")[2].lower()
    finally:
        dispatcher.kill()
