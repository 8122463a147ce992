"""Which nodes take their owner's tasks only, and that old agents and workers are read rightly."""

from __future__ import annotations

import pytest

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.nodes.isolation import Isolation
from nodepool.domain.nodes.node import ENGINE_AWAY, NodeKind, NodeView, is_owner_only, isolation_of
from nodepool.domain.resources import Claim
from nodepool.domain.scheduling.fleet import Fleet
from nodepool.domain.trust.tiers import Tier
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.wire import node_facts_from_wire


@pytest.mark.parametrize(
    ("told", "docker_status", "level"),
    [
        ("bubblewrap", "unavailable", Isolation.BUBBLEWRAP),
        ("none", "running", Isolation.NONE),
        ("", "running", Isolation.CONTAINER),
        ("", " OK ", Isolation.CONTAINER),
        ("", ENGINE_AWAY, Isolation.CONTAINER),  # it has an engine, which is not there now
        ("", "unavailable", Isolation.NONE),
        ("", "", Isolation.NONE),
    ],
)
def test_who_does_not_tell_keeps_tasks_apart_with_docker_or_not_at_all(
    told: str, docker_status: str, level: Isolation
) -> None:
    assert isolation_of(told, docker_status) is level


@pytest.mark.parametrize("level", list(Isolation))
@pytest.mark.parametrize("accepts", [True, False])
def test_an_agent_without_isolation_is_its_owners_alone_until_he_says_otherwise(
    level: Isolation, *, accepts: bool
) -> None:
    only = level is Isolation.NONE and not accepts
    assert is_owner_only(NodeKind.AGENT, level, accepts_strangers=accepts) is only
    assert not is_owner_only(NodeKind.PUSHED, level, accepts_strangers=accepts)


def test_a_word_that_is_no_level_is_refused_with_those_that_are() -> None:
    request = pb.RegisterWorkerNodeRequest(node_id="a/n", kind="agent", isolation="total")
    with pytest.raises(InvalidInputError, match="container, bubblewrap, user, none"):
        node_facts_from_wire(request)


def test_wishes_of_others_stay_alike_while_one_owner_has_such_a_node() -> None:
    fleet = Fleet()
    nothing = Claim(0, 0, 0, 0, tasks=0)

    def put(name: str, owner: int, *, only: bool) -> None:
        fleet.put(
            NodeView(
                node_id=name, tier=Tier.LOW, region="asia", gpu_name="", draining=False, online=True,
                capacity=Claim(1, 1, 0, 0), reserved=nothing, owner_id=owner, owner_only=only,
            )
        )  # fmt: skip

    put("a", 7, only=True)
    put("b", 7, only=True)
    put("c", 8, only=False)
    assert [fleet.owner_that_counts(owner) for owner in (7, 8, 9)] == [7, 0, 0]
    put("a", 7, only=False)
    assert fleet.owner_that_counts(7) == 7
    fleet.remove("b")
    assert fleet.owner_that_counts(7) == 0
    put("d", 9, only=True)  # in the row that b has left
    assert [fleet.owner_that_counts(owner) for owner in (7, 9)] == [0, 9]
