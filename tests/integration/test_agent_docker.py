"""The agent's process with the Docker runner: real containers, one attempt each."""

from __future__ import annotations

import json

import docker
import pytest

from tests.support.agent_stage import HELLO, WAITING, Stage, StageMaker
from tests.support.processes import run_name

pytestmark = pytest.mark.docker


@pytest.fixture
def docker_stage(make_stage: StageMaker, docker_engine: docker.DockerClient, test_image: str) -> Stage:
    return make_stage(node=f"n1-{run_name()}", default_image=test_image).start("--runner", "docker")


def containers(engine: docker.DockerClient, stage: Stage) -> list[str]:
    found = engine.containers.list(
        all=True, ignore_removed=True, filters={"label": f"hivemind.node={stage.node_id}"}
    )
    return [container.labels["hivemind.attempt"] for container in found]


def test_a_message_becomes_a_container_and_a_result(
    docker_stage: Stage, docker_engine: docker.DockerClient
) -> None:
    attempt = docker_stage.send("t:1", HELLO)
    assert docker_stage.outcome(attempt) == "SUCCEEDED"
    assert bytes(attempt.output) == b"hello\n"
    assert attempt.result_text("made.txt") == "here"
    docker_stage.wait(lambda: not containers(docker_engine, docker_stage), "the container is gone")
    assert docker_stage.gateway.registrations[0].docker_status == "running"


def test_a_stop_ends_the_container(docker_stage: Stage, docker_engine: docker.DockerClient) -> None:
    attempt = docker_stage.running("t:1", WAITING)
    assert containers(docker_engine, docker_stage) == ["t:1"]
    docker_stage.gateway.hint(docker_stage.node_id, "t:1", "worker_agent.stop")
    assert docker_stage.outcome(attempt) == "STOPPED"
    docker_stage.wait(lambda: not containers(docker_engine, docker_stage), "the container is gone")


def test_a_changed_allocation_changes_the_containers_soft_limits(
    docker_stage: Stage, docker_engine: docker.DockerClient
) -> None:
    def keep(memory_mb: int) -> None:
        entry = {"at": 0, "stop": False, "claim": {"memory_mb": memory_mb, "cpu_score": 0}}
        docker_stage.valkey.admin.hset(f"node:{docker_stage.node_id}:assigned", "t:1", json.dumps(entry))

    def limits() -> tuple[int, int]:
        (container,) = docker_engine.containers.list(
            filters={"label": f"hivemind.node={docker_stage.node_id}"}
        )
        host = container.attrs["HostConfig"]
        return host["MemoryReservation"], host["Memory"]

    docker_stage.gateway.attempt("t:1", WAITING)
    keep(512)
    docker_stage.gateway.hint(docker_stage.node_id, "t:1")
    attempt = docker_stage.gateway.attempts["t:1"]
    docker_stage.wait(lambda: bool(attempt.output), "t:1 prints")
    reported = docker_stage.gateway.report(docker_stage.node_id)["at"]
    docker_stage.wait(
        lambda: docker_stage.gateway.report(docker_stage.node_id)["at"] > reported, "the list was read again"
    )
    assert limits() == (0, 512 << 20)
    keep(64)
    docker_stage.wait(lambda: limits() == (64 << 20, 512 << 20), "less is kept")
    keep(512)
    docker_stage.wait(lambda: limits() == (512 << 20, 512 << 20), "all is kept again")
    docker_stage.gateway.hint(docker_stage.node_id, "t:1", "worker_agent.stop")
    assert docker_stage.outcome(attempt) == "STOPPED"


def test_an_image_that_is_not_there_is_refused(
    make_stage: StageMaker, docker_engine: docker.DockerClient
) -> None:
    stage = make_stage(node=f"n1-{run_name()}", default_image="nowhere/nothing:none").start(
        "--runner", "docker"
    )
    attempt = stage.send("t:1", HELLO)
    assert stage.outcome(attempt) == "REFUSED"
    assert attempt.end is not None
    assert "nowhere/nothing:none" in attempt.end.reason


def test_a_killed_agent_ends_the_containers_of_its_earlier_life(
    docker_stage: Stage, docker_engine: docker.DockerClient
) -> None:
    attempt = docker_stage.running("t:1", WAITING)
    docker_stage.agent.kill()
    assert containers(docker_engine, docker_stage) == ["t:1"]
    docker_stage.start()
    assert docker_stage.outcome(attempt) == "LOST"
    assert containers(docker_engine, docker_stage) == []


def test_an_owners_next_task_runs_in_the_sandbox_of_the_last_one(
    make_stage: StageMaker, docker_engine: docker.DockerClient, test_image: str
) -> None:
    stage = make_stage(node=f"n2-{run_name()}", default_image=test_image)
    stage.start("--runner", "docker", "--warm-sandboxes", "1")
    # When its first process began, and its namespace: numbers of namespaces alone come again.
    code = "import os; print(open('/proc/1/stat').read().split()[21], os.readlink('/proc/self/ns/pid'))"
    where = {"main.py": code}
    seen: list[bytes] = []

    def again() -> bool:
        number = len(seen) + 1
        attempt = stage.send(
            f"t{number}:1", where, sandbox_owner="word", sandbox_tasks=50, sandbox_idle_seconds=600.0
        )
        assert stage.outcome(attempt) == "SUCCEEDED", bytes(attempt.output)
        seen.append(bytes(attempt.output))
        return seen[-1] in seen[:-1]

    stage.wait(again, "two tasks ran in one sandbox")
    (container,) = docker_engine.containers.list(
        filters={"label": ["hivemind.warm", f"hivemind.node={stage.node_id}"]}
    )
    assert "word" not in json.dumps(container.attrs)
