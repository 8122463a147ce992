"""Which addresses the pool calls: one table, and the ways of writing an address that are not one."""

from __future__ import annotations

import ipaddress

import pytest

from nodepool.domain import client_address
from nodepool.domain.errors import InvalidInputError, StateConflictError
from nodepool.domain.nodes import push_addresses

PEER = "203.0.114.7"
PEER6 = "2a00:1450:4001::7"
NOTHING: tuple[push_addresses.Network, ...] = ()

# address -> a word of the reason when nothing is allowed and the node registered from elsewhere.
REFUSED = {
    "127.0.0.1": "loopback", "127.8.9.10": "loopback", "::1": "loopback", "::ffff:127.0.0.1": "loopback",
    "169.254.1.1": "link-local", "fe80::1": "link-local",
    "10.0.0.8": "private", "172.16.0.1": "private", "172.31.255.255": "private", "192.168.1.1": "private",
    "fc00::1": "private", "fd12:3456::1": "private", "fec0::1": "private", "::ffff:10.0.0.8": "private",
    "192.0.2.1": "private", "198.18.0.1": "private", "100.64.0.1": "shared", "2001:db8::1": "private",
    "64:ff9b::7f00:1": "carries", "2002:7f00:1::": "carries", "2001:0:7f00:1::": "carries",
    "::7f00:1": "carries",
    "169.254.169.254": "never", "::ffff:169.254.169.254": "never", "fd00:ec2::254": "never",
    "168.63.129.16": "never", "100.100.100.200": "never",
    "0.0.0.0": "never", "0.1.2.3": "never", "::": "never", "::ffff:0.0.0.0": "never",
    "224.0.0.1": "never", "239.255.255.250": "never", "ff02::1": "never", "255.255.255.255": "never",
    "8.8.8.8": "registered from", "2001:4860:4860::8888": "registered from",
}  # fmt: skip


def why(text: str, peer: str = PEER, allowed: str = "") -> str:
    networks = push_addresses.parse_networks(allowed)
    return push_addresses.refusal(ipaddress.ip_address(text), peer=peer, networks=networks)


@pytest.mark.parametrize(("text", "word"), REFUSED.items(), ids=REFUSED)
def test_what_is_refused_says_why(text: str, word: str) -> None:
    assert word in why(text)


@pytest.mark.parametrize("text", [name for name, word in REFUSED.items() if word != "registered from"])
def test_no_such_address_is_called_because_a_registration_came_from_it(text: str) -> None:
    peer = client_address.of_peer(f"ipv6:[{text}]:1" if ":" in text else f"ipv4:{text}:1")
    assert why(text, peer=peer)


@pytest.mark.parametrize(
    ("text", "peer"),
    [(PEER, PEER), (f"::ffff:{PEER}", PEER), (PEER6, PEER6), ("2A00:1450:4001:0::7", PEER6)],
)
def test_the_address_that_a_registration_came_from_is_called(text: str, peer: str) -> None:
    assert why(text, peer=peer) == ""


def test_without_a_known_peer_nothing_is_called() -> None:
    assert "not known" in why("8.8.8.8", peer="")


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("10.0.0.8", "10.0.0.0/8"), ("::ffff:10.0.0.8", "10.0.0.0/8"), ("127.0.0.1", "127.0.0.0/8"),
        ("192.168.1.9", "10.0.0.0/8, 192.168.1.9"), ("fd12::1", "fd00::/8"), ("8.8.8.8", "8.8.8.0/24"),
        ("::1", "::1"),
    ],
)  # fmt: skip
def test_what_the_operator_allows_is_called_from_wherever_it_registered(text: str, allowed: str) -> None:
    assert why(text, allowed=allowed) == ""


@pytest.mark.parametrize("text", [name for name, word in REFUSED.items() if word == "never"])
def test_some_are_never_called_whatever_is_allowed(text: str) -> None:
    assert why(text, allowed="0.0.0.0/0, ::/0")


@pytest.mark.parametrize("text", ["10.0.0.1/8", "everything", "10.0.0.0/33", "1.2.3.4.5"])
def test_a_network_that_is_none_names_the_setting(text: str) -> None:
    with pytest.raises(ValueError, match="PUSH_ALLOWED_NETWORKS"):
        push_addresses.parse_networks(f"10.0.0.0/8,{text}")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("203.0.114.7", "203.0.114.7"), ("::ffff:203.0.114.7", "203.0.114.7"), ("[2a00::7]", "2a00::7"),
        ("2a00::7", "2a00::7"), ("node.example.org", None), ("node.example.org.", None), ("my_pc", None),
        ("1.example", None),
    ],
)  # fmt: skip
def test_an_address_or_a_name(host: str, expected: str | None) -> None:
    found = push_addresses.literal(host)
    assert (found and str(found)) == expected


@pytest.mark.parametrize(
    "host",
    [
        "2130706433", "0x7f000001", "0177.0.0.1", "0x7f.1", "127.1", "1.2.3.4.5", "256.1.1.1", "010.0.0.1",
        "1.2.3.4 ", "fe80::1%eth0", "fe80::1%25eth0", "127.0.0.1:6379", "[::1", "http://x", "a/b",
        "user@host", "-x.example", "a..b", ".", "x" * 64, "名.example", "１２７.0.0.1", "a\nb",
        "a." * 130 + "b",
    ],
)  # fmt: skip
def test_other_ways_to_write_an_address_are_refused(host: str) -> None:
    with pytest.raises(InvalidInputError):
        push_addresses.literal(host)


def chosen(*found: str, peer: str = PEER, allowed: str = "") -> str:
    listed = [ipaddress.ip_address(text) for text in found]
    return str(push_addresses.choose(listed, peer=peer, networks=push_addresses.parse_networks(allowed)))


def test_of_several_addresses_of_a_name_the_registrations_own_is_taken() -> None:
    assert chosen("2a00::1", "203.0.114.8", PEER) == PEER
    assert chosen(f"::ffff:{PEER}") == PEER
    assert chosen("10.1.2.3", peer="8.8.8.8", allowed="10.0.0.0/8") == "10.1.2.3"


@pytest.mark.parametrize("bad", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_a_name_with_one_forbidden_address_is_not_called_at_all(bad: str) -> None:
    for found in ([PEER, bad], [bad, PEER]):
        with pytest.raises(StateConflictError):
            chosen(*found)


def test_a_name_without_a_fitting_address_is_not_called() -> None:
    with pytest.raises(StateConflictError, match="registered from"):
        chosen("8.8.8.8", "8.8.4.4")
    with pytest.raises(StateConflictError, match="no address"):
        chosen()


def register(host: str, port: int = 50053, peer: str = PEER, allowed: str = "") -> None:
    networks = push_addresses.parse_networks(allowed)
    push_addresses.check_registration(host, port, peer=peer, networks=networks)


def test_a_registration_is_checked_as_far_as_it_can_be() -> None:
    register(PEER)
    register("node.example.org")
    register("10.0.0.2", peer="10.0.0.2", allowed="10.0.0.0/8")
    with pytest.raises(StateConflictError, match="PUSH_ALLOWED_NETWORKS"):
        register("10.0.0.2", peer="10.0.0.2")
    for host, port in (("", 50053), (PEER, 0), ("localhost", 1), ("a.LOCALHOST.", 1), ("0x7f.1", 1)):
        with pytest.raises(InvalidInputError):
            register(host, port)
