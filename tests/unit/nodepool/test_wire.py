"""The protocol's words become the rules' and come back."""

from __future__ import annotations

import pytest

from nodepool import wire
from nodepool.domain.errors import InvalidInputError
from nodepool.domain.nodes.node import MAX_TASKS_LIMIT, NodeKind, NodeStatus
from nodepool.domain.resources import Resources
from nodepool.domain.tasks.states import Outcome, TaskState
from nodepool.protocol import nodepool_pb2 as pb


def _node(**fields: object) -> pb.RegisterWorkerNodeRequest:
    return pb.RegisterWorkerNodeRequest(**{"node_id": "owner/n", "kind": "agent", **fields})  # type: ignore[arg-type]


def test_every_state_has_a_word_and_old_clients_know_it() -> None:
    assert set(wire.TASK_STATUS_WORDS) == set(TaskState)
    assert set(wire.TASK_STATUS_WORDS.values()) == {"PENDING", "RUNNING", "COMPLETED", "FAILED", "STOPPED"}
    assert set(wire.NODE_STATUS_WORDS) == set(NodeStatus)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_an_outcome_comes_back_as_it_went(outcome: Outcome) -> None:
    assert wire.outcome_from_wire(wire.outcome_to_wire(outcome)) is outcome


@pytest.mark.parametrize("number", [pb.ATTEMPT_OUTCOME_UNSPECIFIED, -1, 99])
def test_other_numbers_are_no_outcome(number: int) -> None:
    with pytest.raises(InvalidInputError):
        wire.outcome_from_wire(number)


def test_needs_are_read_and_checked() -> None:
    request = pb.UploadTaskRequest(cpu_score=1, memory_gb=2, gpu_score=3, gpu_memory_gb=4)
    assert wire.needs_from_wire(request) == Resources(1, 2, 3, 4)
    fine = pb.UploadTaskRequest(memory_mb=1536)
    assert wire.needs_from_wire(fine) == Resources(memory_gb=2, memory_mb=1536)
    fine.memory_gb = 2
    assert wire.needs_from_wire(fine).memory_mb == 1536
    for wrong in ({"memory_mb": 1536, "memory_gb": 1}, {"memory_mb": -1}):
        with pytest.raises(InvalidInputError, match="memory_mb"):
            wire.needs_from_wire(pb.UploadTaskRequest(**wrong))
    with pytest.raises(InvalidInputError, match="gpu_score"):
        wire.needs_from_wire(pb.UploadTaskRequest(gpu_score=-1))


@pytest.mark.parametrize(("word", "name"), [("", ""), (" any ", ""), ("Any", ""), (" RTX 4090 ", "RTX 4090")])
def test_a_wish_for_a_gpu(word: str, name: str) -> None:
    assert wire.gpu_name_from_wire(word) == name


@pytest.mark.parametrize("word", ["a\nb", "a\0b", "x" * 201])
def test_a_gpu_that_cannot_be(word: str) -> None:
    with pytest.raises(InvalidInputError, match="gpu_name"):
        wire.gpu_name_from_wire(word)


def test_an_agents_facts() -> None:
    facts = wire.node_facts_from_wire(
        _node(hostname="h", cpu_cores=4, cpu_score=4000, memory_gb=8, location=" 亞洲 ", gpu_name="None")
    )
    assert (facts.kind, facts.max_tasks, facts.gpu_name) == (NodeKind.AGENT, 8, "")
    assert (facts.location, facts.region, facts.total) == ("亞洲", "asia", Resources(4000, 8))


def test_an_existing_worker_that_says_no_kind_is_pushed_to_and_runs_one_task() -> None:
    facts = wire.node_facts_from_wire(_node(kind="", max_tasks=50, location=""))
    assert (facts.kind, facts.max_tasks, facts.location, facts.region) == ("pushed", 1, "Unknown", "unknown")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"node_id": "a b"}, "node_id"),
        ({"cpu_cores": -1}, "cpu_cores"),
        ({"cpu_cores": 5000}, "cpu_cores"),
        ({"memory_gb": -1}, "memory_gb"),
        ({"port": 65536}, "port"),
        ({"max_tasks": MAX_TASKS_LIMIT + 1}, "max_tasks"),
        ({"max_tasks": -1}, "max_tasks"),
        ({"hostname": "a\nb"}, "hostname"),
        ({"hostname": "x" * 201}, "hostname"),
        ({"docker_status": "\x1b[2J"}, "docker_status"),
        ({"location": "Mars"}, "region"),
    ],
)
def test_facts_that_cannot_be_are_refused_by_name(fields: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidInputError, match=named):
        wire.node_facts_from_wire(_node(**fields))
