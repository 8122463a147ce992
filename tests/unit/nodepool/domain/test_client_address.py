"""Whose call it is, when balancers stand between and clients lie."""

from __future__ import annotations

import pytest

from nodepool.domain import client_address
from nodepool.domain.client_address import ClientAddress, ForwardedHeader
from nodepool.domain.nodes.push_addresses import parse_networks

TRUSTED = parse_networks("10.0.0.0/8, 2001:db8:ff::/48")
BALANCER, FIRST_BALANCER, CLIENT = "10.0.0.5", "10.0.0.6", "203.0.113.9"
X, FORWARDED = ForwardedHeader.X_FORWARDED_FOR, ForwardedHeader.FORWARDED


def client(header: ForwardedHeader, *lines: str, direct: str = BALANCER) -> str:
    return client_address.client_behind(direct, client_address.hops(header, lines), TRUSTED)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([CLIENT], CLIENT),
        (["198.51.100.1", CLIENT], CLIENT),  # the first line is what the client sent itself
        ([f"198.51.100.1, {CLIENT}"], CLIENT),
        ([f"10.0.0.9, {CLIENT}"], CLIENT),  # an address of the balancers, in the client's own words
        ([f"{CLIENT},{FIRST_BALANCER}"], CLIENT),
        ([f" {CLIENT} , {FIRST_BALANCER} "], CLIENT),
        ([f"{CLIENT}:51000"], CLIENT),
        (["2001:db8::7"], "2001:db8::7"),
        (["[2001:db8::7]:51000"], "2001:db8::7"),
        (["[2001:db8::7]"], "2001:db8::7"),
        (["::ffff:203.0.113.9"], CLIENT),
        ([f"{CLIENT}, 2001:db8:ff::1"], CLIENT),
        ([FIRST_BALANCER], FIRST_BALANCER),  # its own check
        ([""], BALANCER),
        ([f"{CLIENT}, unknown"], BALANCER),
        ([f"{CLIENT}, nonsense, {FIRST_BALANCER}"], FIRST_BALANCER),
        ([f"{CLIENT},"], BALANCER),
        ([], BALANCER),
    ],
)
def test_x_forwarded_for_is_read_from_its_end_as_far_as_balancers_wrote_it(
    lines: list[str], expected: str
) -> None:
    assert client(X, *lines) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([f"for={CLIENT}"], CLIENT),
        ([f"by=10.0.0.5;For={CLIENT};proto=https"], CLIENT),
        (['for="[2001:db8::7]:51000"'], "2001:db8::7"),
        ([f"for=198.51.100.1, for={CLIENT}"], CLIENT),
        (["for=198.51.100.1", f'for="{CLIENT}:80"'], CLIENT),
        ([f'for="198.51.100.1, for={CLIENT}'], CLIENT),  # a quote that the client opened
        ([f"for={CLIENT}, for={FIRST_BALANCER}"], CLIENT),
        ([f"for={CLIENT}, for=_hidden"], BALANCER),
        ([f"for={CLIENT}, proto=https"], BALANCER),
        ([CLIENT], BALANCER),
    ],
)
def test_forwarded_is_read_likewise(lines: list[str], expected: str) -> None:
    assert client(FORWARDED, *lines) == expected


def test_who_is_not_trusted_is_the_client_whatever_it_says() -> None:
    assert client(X, "198.51.100.1", direct=CLIENT) == CLIENT
    assert client(X, f"198.51.100.1, {BALANCER}", direct=CLIENT) == CLIENT
    assert client(X, "198.51.100.1", direct="") == ""


def test_a_list_without_end_is_not_read_to_its_beginning() -> None:
    assert len(client_address.hops(X, ["10.0.0.1," * 5000])) == client_address.MOST_HOPS


def test_what_limits_count_of_ipv6_is_the_network_of_a_customer() -> None:
    assert ClientAddress.of("2001:db8:1:2:3:4:5:6") == ClientAddress("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::")
    assert ClientAddress.of(CLIENT) == ClientAddress(CLIENT, CLIENT)
    assert ClientAddress.of("", "unix") == ClientAddress("", "unix")


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("ipv4:203.0.114.7:5123", "203.0.114.7"), ("ipv6:[2a00:1450:4001::7]:5", "2a00:1450:4001::7"),
        ("ipv6:%5B2a00:1450:4001::7%5D:5", "2a00:1450:4001::7"),
        ("ipv6:[::ffff:203.0.114.7]:5", "203.0.114.7"), ("ipv6:%5Bfe80::1%25eth0%5D:5", "fe80::1"),
        ("unix:/tmp/socket", ""), ("unix:", ""), ("", ""), ("ipv4:nonsense:5", ""), ("inproc", ""),
    ],
)  # fmt: skip
def test_the_address_of_a_peer(peer: str, expected: str) -> None:
    assert client_address.of_peer(peer) == expected
