"""Whose silence it is, by how far away those are who are heard."""

from __future__ import annotations

import pytest

from nodepool.domain.nodes.mass_silence import NodeDistance, reach_of, really_gone

OWN = frozenset({"198.51.100.9"})


@pytest.mark.parametrize(
    ("address", "reach"),
    [
        ("127.0.0.1", NodeDistance.OWN_MACHINE),
        ("::1", NodeDistance.OWN_MACHINE),
        ("198.51.100.9", NodeDistance.OWN_MACHINE),
        ("172.18.0.4", NodeDistance.OWN_NETWORK),
        ("fd00::1", NodeDistance.OWN_NETWORK),
        ("169.254.0.3", NodeDistance.OWN_NETWORK),
        ("8.8.8.8", NodeDistance.ELSEWHERE),
        ("2a00:1450::1", NodeDistance.ELSEWHERE),
        ("", None),
        ("unix", None),
    ],
)
def test_reach(address: str, reach: NodeDistance | None) -> None:
    assert reach_of(address, OWN) is reach


def test_who_is_not_known_is_as_far_as_can_be_and_proves_nothing() -> None:
    silent = {
        "own": NodeDistance.OWN_MACHINE,
        "lan": NodeDistance.OWN_NETWORK,
        "far": NodeDistance.ELSEWHERE,
        "who": None,
    }
    assert really_gone(silent, [NodeDistance.OWN_MACHINE] * 9) == {"own"}
    assert really_gone(silent, [NodeDistance.OWN_NETWORK, NodeDistance.ELSEWHERE]) == {"own", "lan"}
    assert really_gone(silent, [NodeDistance.ELSEWHERE]) == frozenset()
    assert really_gone(silent, [NodeDistance.ELSEWHERE] * 2) == silent.keys()
    assert really_gone(silent, [None] * 9) == frozenset()
