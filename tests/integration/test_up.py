"""`hivemind up` as a person runs it: one command, every real part below it."""

from __future__ import annotations

import base64
import json
import os
import signal
import sqlite3
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc
import jwt
import psutil
import pytest

from celeryconfig import task_queues
from local_pool.leftover_processes import birth_of, read_pid_file
from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import Account, log_in, register
from tests.support.environment import free_port
from tests.support.tasks import script
from tests.support.up import STOP_SECONDS, Up
from tests.support.waiting import wait_until

PARTS = ("valkey", "gateway", "dispatcher", "flower", "agent-1", "agent-2")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    made = Up(tmp_path_factory.mktemp("up"))
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def user(up: Up) -> Account:
    return register(up.stubs(), "alice", "a-long-password")


def last_line(up: Up, beginning: str) -> str:
    """Every start says it once."""
    return [line for line in up.process.log().splitlines() if line.startswith(beginning)][-1]


def finish(user: Account, up: Up) -> None:
    """One small task through all parts."""
    task = user.submit(script("print('through')"))
    up.wait(lambda: user.poll(task).status == "COMPLETED", f"{task} has ended well")
    assert "through" in user.logs(task)


def test_when_it_says_ready_the_gateway_serves_and_both_agents_are_online(up: Up, user: Account) -> None:
    health = up.stubs().nodes.HealthCheck
    # Another test may just have ended a part, which is back.
    up.wait(lambda: health(pb.HealthCheckRequest(), timeout=20).healthy, "the gateway is healthy")
    online = {node.node_id for node in user.node_list() if node.status == "ONLINE"}
    assert online == {"local/agent-1", "local/agent-2"}
    log = up.process.log()
    assert f"gateway         127.0.0.1:{up.grpc_port}" in log
    assert f"http://127.0.0.1:{up.flower_port}" in log


def test_it_tells_how_to_be_its_admin_and_that_works(up: Up) -> None:
    line = last_line(up, "operator ")
    assert "user operator, an admin" in line
    assert f" login operator --password-stdin < {up.data_dir / 'secrets' / 'operator'}" in line
    operator = log_in(up.stubs(), "operator", up.secret("operator"))
    claims = jwt.decode(operator.token, options={"verify_signature": False})
    assert claims["role"] == "admin"


def test_it_tells_how_to_be_the_one_who_owns_the_agents_and_that_is_no_admin(up: Up) -> None:
    line = last_line(up, "your account ")
    file = up.data_dir / "secrets" / "local"
    assert line.endswith(f"hivemind --gateway 127.0.0.1:{up.grpc_port} login local --password-stdin < {file}")
    local = log_in(up.stubs(), "local", up.secret("local"))
    claims = jwt.decode(local.token, options={"verify_signature": False})
    assert claims["role"] != "admin"
    assert {node.owner for node in local.node_list()} == {"local"}


def test_a_task_goes_through_it(up: Up, user: Account) -> None:
    finish(user, up)


def test_flower_shows_the_dispatcher_and_both_agents(up: Up) -> None:
    def all_there() -> dict[str, bool]:
        alive: dict[str, bool] = up.flower("/api/workers?status=1")
        return alive if len(alive) == 3 else {}

    alive = up.wait(all_there, "Flower has heard of all three")
    assert {"agent@local/agent-1", "agent@local/agent-2"} < set(alive)
    assert sum(name.startswith("dispatcher@") for name in alive) == 1
    assert all(alive.values())


def test_flower_shows_the_queues_of_tiers_and_regions_and_of_nodes(up: Up) -> None:
    def names() -> set[str]:
        found = {queue["name"] for queue in up.flower("/api/queues/length")["active_queues"]}
        return found if {"low.any", "node.local/agent-2"} <= found else set()

    found = up.wait(names, "Flower knows all queues")
    assert {"high.asia", "normal.any", "low.any", "node.local/agent-1", "node.local/agent-2"} <= found
    workers = up.flower("/api/workers")
    queues = {name: [queue["name"] for queue in worker["active_queues"]] for name, worker in workers.items()}
    assert queues["agent@local/agent-1"] == ["node.local/agent-1"]
    assert [set(names) for names in queues.values()].count({queue.name for queue in task_queues}) == 1


def test_flower_asks_for_a_password_and_tells_no_secret(up: Up) -> None:
    for path in ("/", "/api/workers", "/api/queues/length", "/metrics", "/broker"):
        for login in ("", "flower:wrong"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                up.flower(path, login)
            assert refused.value.code == 401
            refused.value.close()
    broker = (up.data_dir / "valkey" / "password").read_text().strip()
    shown = json.dumps(up.flower("/api/workers?refresh=1"))
    for secret in (broker, *(up.secret(name) for name in ("jwt", "storage", "operator", "local", "flower"))):
        assert secret not in shown


def test_flower_is_a_window_and_commands_nobody(up: Up) -> None:
    login = base64.b64encode(f"flower:{up.secret('flower')}".encode()).decode()
    name = next(name for name in up.flower("/api/workers?status=1") if name.startswith("dispatcher@"))
    request = urllib.request.Request(
        f"http://127.0.0.1:{up.flower_port}/api/worker/shutdown/{name}",
        method="POST",
        headers={"Authorization": f"Basic {login}"},
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    assert refused.value.code == 403
    refused.value.close()


def test_its_secrets_are_in_files_for_their_owner_only(up: Up) -> None:
    for name in ("jwt", "storage", "operator", "local", "flower"):
        path = up.data_dir / "secrets" / name
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert len(up.secret(name)) >= 32
    for path in (up.data_dir / "secrets", up.data_dir / "valkey", up.data_dir / "logs"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((up.data_dir / "pool.db").stat().st_mode) == 0o600


def test_no_secret_is_in_a_log_or_on_a_command_line(up: Up) -> None:
    broker = (up.data_dir / "valkey" / "password").read_text().strip()
    secrets = [broker, *(up.secret(name) for name in ("jwt", "storage", "operator", "local", "flower"))]
    texts = [up.process.log(), *(file.read_text() for file in (up.data_dir / "logs").iterdir())]
    texts += [" ".join(psutil.Process(up.pid(part)).cmdline()) for part in PARTS]
    assert not [secret for secret in secrets for text in texts if secret in text]


def test_agents_are_given_none_of_the_pools_secrets(up: Up) -> None:
    environment = psutil.Process(up.pid("agent-1")).environ()
    assert not {"REDIS_URL", "CELERY_BROKER_URL", "JWT_SECRET_KEY", "STORAGE_KEY", "DB_PATH"} & set(
        environment
    )


def test_a_second_pool_on_the_same_data_directory_is_refused(up: Up) -> None:
    second = up.command("second", up.data_dir, free_port(), free_port())
    second.start()
    assert second.process.wait(60) == 1
    assert f"another pool runs on {up.data_dir}" in second.log()


def test_a_port_that_is_taken_is_told_with_the_way_out(up: Up, tmp_path: Path) -> None:
    second = up.command("taken", tmp_path / "other", up.grpc_port, free_port())
    second.start()
    assert second.process.wait(60) == 1
    assert f"port {up.grpc_port} on 127.0.0.1 cannot be used" in second.log()
    assert "--grpc-port" in second.log()


@pytest.mark.parametrize("part", ["dispatcher", "gateway", "valkey"])
def test_a_part_that_is_killed_comes_back_and_work_goes_on(up: Up, user: Account, part: str) -> None:
    line = f"{part} started again"
    before = up.process.log().count(line)
    os.kill(up.pid(part), signal.SIGKILL)
    up.wait(lambda: up.process.log().count(line) > before, f"{part} is started again")
    assert f"{part} was ended by SIGKILL" in up.process.log()
    stubs = up.stubs()

    def serves() -> bool:
        try:
            return bool(stubs.nodes.HealthCheck(pb.HealthCheckRequest(), timeout=20).healthy)
        except grpc.RpcError:
            return False

    up.wait(serves, "the gateway is healthy")
    finish(user, up)


def test_it_stops_cleanly_and_keeps_everything_for_the_next_start(up: Up, user: Account) -> None:
    task = user.submit(script("print('kept')"))
    up.wait(lambda: user.poll(task).status == "COMPLETED", "the task has ended well")
    pids = [up.pid(part) for part in PARTS]
    before = len(up.process.log().splitlines())
    assert up.process.stop(STOP_SECONDS) == 0, up.logs()
    said = up.process.log().splitlines()[before:]
    assert said.count("stopped") == 1
    assert not [pid for pid in pids if birth_of(pid)]
    assert not list((up.data_dir / "run").iterdir())
    order = [line for line in said if line.startswith("stopping ")]
    assert set(order[:2]) == {"stopping agent-1", "stopping agent-2"}
    assert order[2:] == [f"stopping {part}" for part in ("flower", "dispatcher", "gateway", "valkey")]
    give_the_admin_a_node(up.data_dir / "pool.db")
    up.start()
    again = log_in(up.stubs(), "alice", "a-long-password")
    assert again.result(task)
    finish(again, up)
    assert {node.node_id for node in again.node_list()} == {"local/agent-1", "local/agent-2"}
    log = (up.data_dir / "logs" / "gateway.log").read_text().splitlines()
    assert [line for line in log if "action=node.left" in line and "node=operator/agent-1 " in line]


def give_the_admin_a_node(path: Path) -> None:
    """As versions before this one did."""
    with closing(sqlite3.connect(path)) as database, database:
        columns = [row[1] for row in database.execute("PRAGMA table_info(nodes)")]
        names = ", ".join(name for name in columns if name not in ("id", "owner_id"))
        database.execute(
            f"INSERT INTO nodes (id, owner_id, {names}) SELECT 'operator/agent-1', users.id, {names} "
            "FROM nodes, users WHERE nodes.id = 'local/agent-1' AND username = 'operator'"
        )
        database.execute("UPDATE nodes SET active = 1 WHERE id = 'operator/agent-1'")


def test_when_it_is_killed_its_parts_end_and_the_next_start_works(up: Up, user: Account) -> None:
    pids = {part: up.pid(part) for part in PARTS}
    up.process.kill()
    wait_until(lambda: not [part for part, pid in pids.items() if birth_of(pid)], "all parts have ended", 60)
    up.start()
    finish(user, up)


@pytest.mark.parametrize("part", ["dispatcher", "gateway"])
def test_a_part_that_hangs_is_started_again(up: Up, user: Account, part: str) -> None:
    first = up.pid(part)
    os.kill(first, signal.SIGSTOP)

    def again() -> bool:
        found = read_pid_file(up.data_dir / "run" / f"{part}.pid")
        return found is not None and found.pid != first

    up.wait(again, f"the {part} is another one", 90)
    assert f"{part} hangs: it has said nothing for" in up.process.log()

    def works() -> bool:
        try:
            return bool(user.stubs.nodes.HealthCheck(pb.HealthCheckRequest(), timeout=20).healthy)
        except grpc.RpcError:
            return False

    up.wait(works, "the pool works")
    finish(user, up)
