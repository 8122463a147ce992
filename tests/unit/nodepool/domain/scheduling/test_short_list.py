"""The short list of a very large fleet: a sample says where to look, and nothing better is left out."""

from __future__ import annotations

import numpy as np
import pytest

from nodepool.domain.nodes.node import NodeView
from nodepool.domain.resources import Claim
from nodepool.domain.scheduling.fleet import Amounts, Fleet
from nodepool.domain.scheduling.placement import Chooser, Requirements, decide
from nodepool.domain.trust.tiers import TIERS, Tier

NODES = 12_000
NOTHING = Claim(0, 0, 0, 0, tasks=0)


def fleet(sizes: list[int]) -> Fleet:
    return Fleet.of(
        NodeView(
            node_id=f"n{number:05}",
            tier=TIERS[number % 3],
            region="asia",
            gpu_name="",
            draining=False,
            online=True,
            capacity=Claim(size, 4096, 0, 0, tasks=2),
            reserved=NOTHING,
        )
        for number, size in enumerate(sizes)
    )


@pytest.mark.parametrize("kind", ["all different", "all equal", "sorted", "a few small ones"])
def test_nothing_better_is_left_out_of_the_short_list(kind: str) -> None:
    random = np.random.default_rng(3)
    sizes = {
        "all different": random.integers(1000, 10**6, NODES),
        "all equal": np.full(NODES, 4000),
        "sorted": np.arange(1000, 1000 + NODES),
        "a few small ones": np.where(np.arange(NODES) % 1000, 10**6, 1000),
    }[kind]
    nodes = fleet(sizes.tolist())
    requirements = Requirements(claim=Claim(1000, 512, 0, 0), tier=Tier.HIGH)
    best = [nodes.rank[nodes.row_of[node_id]] for node_id in decide(requirements, nodes).ranked]
    chooser, amounts = Chooser(requirements, nodes), Amounts.of(requirements.claim)
    for expected in best[:600]:  # more than one short list
        row = chooser.next()
        assert row is not None
        assert nodes.rank[row] == expected
        nodes.take(row, amounts)
