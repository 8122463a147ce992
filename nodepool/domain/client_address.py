"""Whose call it is: the address of a client, also where balancers stand between, and what limits count of it.

A balancer that is trusted says who came to it. What a client says of itself is worth nothing, so the list of
addresses is read from its end, where the trusted ones wrote, and only as far as they did.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote

from nodepool.domain.nodes.push_addresses import Network, is_within

IPV6_PREFIX_BITS = 64
# So many balancers stand behind each other at the most.
MOST_HOPS = 32


class ForwardedHeader(StrEnum):
    """The header in which trusted balancers write. One only: the other one would be the client's to fill."""

    X_FORWARDED_FOR = "x-forwarded-for"
    FORWARDED = "forwarded"


@dataclass(frozen=True, slots=True)
class ClientAddress:
    """`exact` is the machine's address, empty where it has none; `counted` is what limits count it by."""

    exact: str
    counted: str

    @classmethod
    def of(cls, exact: str, otherwise: str = "") -> ClientAddress:
        """`otherwise` is counted where there is no address."""
        return cls(exact, counted(exact) if exact else otherwise)


def counted(address: str) -> str:
    """An IPv4 address; of IPv6 the network that one customer has."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        network = ipaddress.ip_network((parsed, IPV6_PREFIX_BITS), strict=False)
        return str(network.network_address)
    return address


def plain(text: str) -> str:
    """The address as it is always written, IPv4 as IPv4 and without a zone; empty where it is none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def of_peer(peer: str) -> str:
    """The address in gRPC's name of a peer (`ipv4:192.0.2.1:5`); empty where it has none."""
    kind, _, rest = unquote(peer).partition(":")
    return plain(rest.rpartition(":")[0].strip("[]")) if kind in ("ipv4", "ipv6") else ""


def hops(header: ForwardedHeader, values: Iterable[str]) -> list[str]:
    """The addresses that the header's lines name, from the first to the last; empty for one that is none.

    At every comma, also one in quotes: else who opens a quote would swallow what a balancer writes after it.
    """
    parts = [part for value in values for part in value.split(",")][-MOST_HOPS:]
    if header is ForwardedHeader.FORWARDED:
        parts = [_for_of(part) for part in parts]
    return [_address(part) for part in parts]


def client_behind(direct: str, named: Sequence[str], trusted: Sequence[Network]) -> str:
    """The client's address: the last in `named` that is not a trusted balancer's own.

    `direct` is who connected. Where it is not trusted, nothing that it says counts; where a trusted one
    says nothing that can be read, it is taken for the client itself.
    """
    client = direct
    for hop in reversed(named):
        if not hop or not is_within(client, trusted):
            break
        client = hop
    return client


def _for_of(element: str) -> str:
    for pair in element.split(";"):
        name, _, value = pair.partition("=")
        if name.strip().casefold() == "for":
            return value.strip().strip('"')
    return ""


def _address(text: str) -> str:
    """Of 192.0.2.1, 192.0.2.1:80, 2001:db8::1, [2001:db8::1], [2001:db8::1]:80."""
    text = text.strip()
    if text.startswith("["):
        return plain(text[1:].partition("]")[0])
    return plain(text.partition(":")[0] if text.count(":") == 1 else text)
