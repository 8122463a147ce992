"""Whose attempts are counted together."""

from __future__ import annotations

import pytest

from gateway.auth.rate_limit import peer_address


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.7:51234", "192.0.2.7"),
        ("ipv6:%5B::1%5D:51234", "::"),
        ("ipv6:[2001:db8:1:2:3:4:5:6]:51234", "2001:db8:1:2::"),
        ("ipv6:%5B::ffff:192.0.2.7%5D:51234", "192.0.2.7"),
        ("ipv6:%5Bfe80::1%25eth0%5D:51234", "fe80::"),
    ],
)
def test_a_peer_is_counted_by_its_address_without_the_port(peer: str, address: str) -> None:
    assert peer_address(peer) == address


def test_peers_of_one_kind_without_an_address_are_counted_together() -> None:
    assert peer_address("unix:") == peer_address("unix:/run/pool.sock")
    assert len(peer_address("x" * 10_000)) == 32
