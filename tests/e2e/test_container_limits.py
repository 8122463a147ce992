"""What the engine itself says of the container of a task that came through the whole pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import docker
import pytest

from nodepool.settings import Settings
from tests.support.accounts import Account
from tests.support.faults import WAITS, await_begun, folder_of, let_go
from tests.support.pool import TestPool
from tests.support.tasks import script, unpacked

pytestmark = pytest.mark.docker
GIB = 1 << 30


class Seen:
    """A task that runs in a container and waits, as `docker inspect` shows it."""

    def __init__(self, pool: TestPool, engine: docker.DockerClient, user: Account, **needs: Any) -> None:
        self.pool, self.user = pool, user
        self.task = user.submit(script(WAITS), **needs)
        self.name = await_begun(pool, user, self.task)
        label = f"hivemind.attempt={pool.attempt(self.task)}"
        (container,) = engine.containers.list(ignore_removed=True, filters={"label": label})
        self.container = container
        self.all: dict[str, Any] = dict(container.attrs)
        self.host: dict[str, Any] = self.all["HostConfig"]
        self.config: dict[str, Any] = self.all["Config"]

    def end(self) -> dict[str, bytes]:
        let_go(self.pool, self.pool.agents[0], self.task)
        self.user.wait_for(self.task, "COMPLETED")
        return unpacked(self.user.result(self.task))


def test_a_running_tasks_container_has_every_limit(
    docker_pool: TestPool, docker_engine: docker.DockerClient, test_image: str
) -> None:
    settings, agent = Settings(), docker_pool.agents[0]
    seen = Seen(docker_pool, docker_engine, docker_pool.register_user(), memory_gb=1, cpu_score=10)
    host, config = seen.host, seen.config

    assert host["NetworkMode"] == "none"
    assert list(seen.all["NetworkSettings"]["Networks"]) == ["none"]
    assert not host["PortBindings"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert host["Privileged"] is False
    # No other entry: the default seccomp profile is in force.
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert config["User"].split(":")[0] not in ("", "0", "root")
    assert host["ReadonlyRootfs"] is True
    assert host["Tmpfs"] == {"/tmp": f"rw,exec,nosuid,nodev,size={settings.tmpfs_bytes},mode=1777"}
    assert host["ShmSize"] == settings.tmpfs_bytes
    assert (host["Memory"], host["MemorySwap"]) == (GIB, GIB)
    assert 0 < host["NanoCpus"] < 1_000_000_000
    assert host["PidsLimit"] == settings.pids_limit
    assert host["Init"] is True
    limits = {limit["Name"]: (limit["Soft"], limit["Hard"]) for limit in host["Ulimits"]}
    largest = settings.max_workdir_bytes
    assert limits == {"fsize": (largest, largest), "nofile": (4096, 4096), "core": (0, 0)}
    assert (host["PidMode"], host["IpcMode"], host["UTSMode"]) == ("", "private", "")
    assert not host["Devices"]
    assert host["RestartPolicy"]["Name"] in ("", "no")
    assert config["Image"] == test_image
    assert config["Labels"]["hivemind.node"] == agent.node_id
    assert config["Labels"]["hivemind.attempt"] == seen.pool.attempt(seen.task)
    assert str(seen.all["Name"]).startswith("/hivemind-")

    # One mount, the working directory: no engine's socket, nothing else of the machine.
    assert not host["Binds"]
    work = folder_of(docker_pool, agent, seen.task)
    assert [(mount["Source"], mount["Destination"]) for mount in seen.all["Mounts"]] == [(str(work), "/work")]
    assert "docker.sock" not in str(seen.all["Mounts"])
    secrets = (agent.owner.password, agent.owner.token, docker_pool.valkey.password)
    assert not [secret for secret in secrets if secret in str(seen.all)]

    files = seen.end()
    assert files["who.txt"].decode() == seen.name
    assert files["task_logs.txt"].decode() == f"begun {seen.name}\ndone {seen.name}\n"


def test_nothing_is_left_of_a_container_whose_result_came_back(
    docker_pool: TestPool, docker_engine: docker.DockerClient
) -> None:
    seen = Seen(docker_pool, docker_engine, docker_pool.register_user())
    work = Path(folder_of(docker_pool, docker_pool.agents[0], seen.task))
    seen.end()
    label = f"hivemind.attempt={seen.pool.attempt(seen.task)}"
    docker_pool.wait(
        lambda: not docker_engine.containers.list(all=True, ignore_removed=True, filters={"label": label}),
        "it is removed",
    )
    docker_pool.wait(lambda: not work.parent.exists(), "its working directory is removed")


def test_the_container_of_a_stopped_task_ends_with_it(
    docker_pool: TestPool, docker_engine: docker.DockerClient
) -> None:
    seen = Seen(docker_pool, docker_engine, docker_pool.register_user())
    assert seen.user.stop(seen.task).success
    seen.user.wait_for(seen.task, "STOPPED")
    assert "task_stopped.txt" in unpacked(seen.user.result(seen.task))
    label = f"hivemind.attempt={seen.pool.attempt(seen.task)}"
    docker_pool.wait(
        lambda: not docker_engine.containers.list(all=True, ignore_removed=True, filters={"label": label}),
        "it is removed",
    )
