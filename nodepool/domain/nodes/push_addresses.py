"""Which addresses the pool calls, when a node without an agent wants to be called.

Whoever registers such a node chooses where the pool connects to, so a choice must not reach what only
the pool can reach: its own machine, its network, a cloud's metadata. Pure: names are resolved elsewhere,
and every address that a name turns out to have is asked about here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

from nodepool.domain.errors import InvalidInputError, StateConflictError

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network
SETTING = "PUSH_ALLOWED_NETWORKS"

_MAX_NAME = 253
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
# How some resolvers read a number as an IPv4 address: 2130706433, 0x7f.1, 127.1.
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")

# Where clouds hand out a machine's secrets. Never called, whatever the operator allows.
_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in ("169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192",
                 "fd00:ec2::254", "fd20:ce::254")
)  # fmt: skip
# 0.0.0.0 is this very machine on Linux, and all of its network is nobody else's.
_NOWHERE = tuple(ipaddress.ip_network(text) for text in ("0.0.0.0/8", "240.0.0.0/4", "::/128"))
# IPv6 addresses that have an IPv4 address in them: a gateway on the way may take the packet there.
_CARRIERS = tuple(
    ipaddress.ip_network(text)
    for text in ("::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16")
)


def parse_networks(text: str, setting: str = SETTING) -> tuple[Network, ...]:
    """Comma separated networks (CIDR) or single addresses. Raises ValueError that names the setting."""
    networks: list[Network] = []
    for part in (piece.strip() for piece in text.split(",")):
        if not part:
            continue
        try:
            networks.append(ipaddress.ip_network(part))
        except ValueError as error:
            raise ValueError(
                f"{setting} must be networks such as 10.0.0.0/8, comma separated: {error}"
            ) from None
    return tuple(networks)


def is_within(address: str, networks: Sequence[Network]) -> bool:
    """Whether the address is in one of the networks; never where it is no address."""
    if not networks:
        return False
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)


def literal(host: str, what: str = "hostname") -> Address | None:
    """The address that is written there; None for a name. Raises InvalidInputError for anything else."""
    if "%" in host:
        raise InvalidInputError(f"{what} must be an address without a zone (%…), or a name")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return _plain(ipaddress.ip_address(bare))
    except ValueError:
        pass
    labels = host.removesuffix(".").split(".")
    if len(host) > _MAX_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidInputError(f"{what} must be an address or a DNS name at which the pool can call it")
    if _NUMBER.fullmatch(labels[-1]):
        raise InvalidInputError(
            f"{what} must be four decimal numbers, such as 192.0.2.7, for an IPv4 address"
        )
    return None


def refusal(address: Address, *, peer: str, networks: Sequence[Network]) -> str:
    """Why the pool does not call this address; empty when it does.

    `peer` is the address that the registration came from, `networks` what the operator allows.
    """
    address = _plain(address)
    if address in _METADATA:
        return f"{address} hands out secrets of the machine that asks, and is never called"
    if address.is_multicast or any(address in network for network in _NOWHERE):
        return f"{address} is no single machine's address, and is never called"
    if any(address in network for network in networks):
        return ""
    kind = _special(address)
    if kind:
        return f"{address} is {kind}, which this pool does not call (its operator can allow it: {SETTING})"
    if str(address) != peer:
        return (
            f"{address} is not the address that the node registered from, {peer or 'which is not known'} "
            f"(the pool's operator can allow it: {SETTING})"
        )
    return ""


def choose(found: Sequence[Address], *, peer: str, networks: Sequence[Network]) -> Address:
    """The address to connect to, of all that a name has. Raises ConflictError when there is none.

    A name that has a forbidden address among good ones is up to something, and is not called at all;
    one that is merely not the peer's (a machine has IPv4 and IPv6) is passed over.
    """
    good: list[Address] = []
    reason = ""
    for address in found:
        plain = _plain(address)
        why = refusal(plain, peer=peer, networks=networks)
        if not why:
            good.append(plain)
        elif refusal(plain, peer=str(plain), networks=networks):
            raise StateConflictError(why)
        else:
            reason = reason or why
    if not good:
        raise StateConflictError(reason or "the name of the node has no address")
    return good[0]


def choose_reachable(found: Sequence[Address], *, networks: Sequence[Network]) -> Address:
    """The same for what registers from nowhere, such as a webhook: any address that the pool may call."""
    chosen: Address | None = None
    for address in map(_plain, found):
        if why := refusal(address, peer=str(address), networks=networks):
            raise StateConflictError(why)
        chosen = chosen or address
    if chosen is None:
        raise StateConflictError("the name has no address")
    return chosen


def check_callable(host: str, what: str = "hostname") -> Address | None:
    """What `literal` finds; refuses names of the pool's own machine, too."""
    address = literal(host, what)
    if address is None and host.removesuffix(".").rpartition(".")[2].casefold() == "localhost":
        raise InvalidInputError(f"{what} must be one at which the pool can call it, not localhost")
    return address


def check_reachable(host: str, *, networks: Sequence[Network], what: str) -> None:
    """Refuses what can never be called. A name is asked about when it is resolved."""
    address = check_callable(host)
    if address is not None and (why := refusal(address, peer=str(address), networks=networks)):
        raise StateConflictError(f"{what} cannot be called: {why}")


def check_registration(hostname: str, port: int, *, peer: str, networks: Sequence[Network]) -> None:
    """Refuses what can never be called. A name is asked about again whenever it is resolved."""
    if not hostname or not port:
        raise InvalidInputError(
            "a node without an agent must register the hostname and the port at which the pool calls it"
        )
    address = check_callable(hostname)
    if address is not None and (why := refusal(address, peer=peer, networks=networks)):
        raise StateConflictError(f"this node cannot be called: {why}")


def _plain(address: Address) -> Address:
    """An IPv4 address written as IPv6 (::ffff:1.2.3.4) is that IPv4 address. Without a zone."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        return IPv6Address(int(address))
    return address


def _special(address: Address) -> str:
    if address.is_loopback:
        return "the pool's own machine (loopback)"
    if address.is_link_local:
        return "a link-local address"
    if any(address in network for network in _CARRIERS):
        return "an IPv6 address that carries an IPv4 address"
    if address.is_private or (isinstance(address, IPv6Address) and address.is_site_local):
        return "a private or reserved address"
    return "" if address.is_global else "a shared or reserved address"
