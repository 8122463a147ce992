"""The PROXY header with which a balancer's connection begins: read piece by piece, versions 1 and 2.

Only the client's address is taken of it, and nothing that a balancer tells of TLS besides. Knows no socket.
The format: https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from nodepool.domain.client_address import plain

_V1, _V1_END, _V1_MOST_BYTES = b"PROXY ", b"\r\n", 107
_V2, _V2_FIXED_BYTES = b"\r\n\r\n\0\r\nQUIT\n", 16
_LOCAL, _PROXY = 0x20, 0x21
# The length of a source's address, and of both addresses with their ports.
_V2_FAMILIES = {0x11: (4, 12), 0x21: (16, 36)}
_V1_FAMILIES: dict[bytes, type[ipaddress.IPv4Address | ipaddress.IPv6Address]] = {
    b"TCP4": ipaddress.IPv4Address,
    b"TCP6": ipaddress.IPv6Address,
}
# Addresses, and what a balancer tells besides.
MOST_BYTES = 4096


class BadHeaderError(Exception):
    """What came is no PROXY header."""


@dataclass(frozen=True, slots=True)
class ReadHeader:
    """`client` is None where the balancer speaks for itself, and empty where it names no address.

    `rest` came after the header.
    """

    client: str | None
    rest: bytes


class HeaderReader:
    """For one connection."""

    def __init__(self) -> None:
        self._seen = b""

    def feed(self, data: bytes) -> ReadHeader | None:
        """None where more has to come. Raises BadHeaderError."""
        self._seen += data
        size = _size_of(self._seen)
        if size is None or len(self._seen) < size:
            return None
        header, rest = self._seen[:size], self._seen[size:]
        client = _client_of_v2(header) if header.startswith(_V2) else _client_of_v1(header)
        return ReadHeader(client, rest)


def _size_of(seen: bytes) -> int | None:
    """How long the header is that begins so; None before that can be told. Raises BadHeaderError."""
    if seen.startswith(_V2):
        if len(seen) < _V2_FIXED_BYTES:
            return None
        size = _V2_FIXED_BYTES + int.from_bytes(seen[_V2_FIXED_BYTES - 2 : _V2_FIXED_BYTES], "big")
        if size > MOST_BYTES:
            raise BadHeaderError(f"a header of {size} bytes is too long")
        return size
    if seen.startswith(_V1):
        end = seen.find(_V1_END, 0, _V1_MOST_BYTES)
        if end >= 0:
            return end + len(_V1_END)
        if len(seen) >= _V1_MOST_BYTES:
            raise BadHeaderError("the line has no end")
        return None
    if _V2.startswith(seen) or _V1.startswith(seen):
        return None
    raise BadHeaderError("the connection does not begin with a PROXY header")


def _client_of_v1(line: bytes) -> str:
    """`PROXY TCP4 192.0.2.1 192.0.2.9 51000 443`, or `PROXY UNKNOWN` and whatever."""
    family, *words = line.removesuffix(_V1_END).split(b" ")[1:]
    if family == b"UNKNOWN":
        return ""
    kind = _V1_FAMILIES.get(family)
    if kind is None or len(words) != 4 or not all(_is_port(port) for port in words[2:]):
        raise BadHeaderError("the line is not one of version 1")
    try:
        source, _ = (kind(word.decode("ascii")) for word in words[:2])
    except ValueError as error:
        raise BadHeaderError(str(error)) from error
    return plain(str(source))


def _is_port(word: bytes) -> bool:
    return word.isdigit() and len(word) <= 5 and int(word) <= 65535


def _client_of_v2(header: bytes) -> str | None:
    command, family = header[len(_V2)], header[len(_V2) + 1]
    if command == _LOCAL:
        return None
    if command != _PROXY:
        raise BadHeaderError(f"0x{command:02x} is no command of version 2")
    if family not in _V2_FAMILIES:
        return ""  # a socket of its own machine, or of no kind that has an address here
    source_bytes, least = _V2_FAMILIES[family]
    if len(header) < _V2_FIXED_BYTES + least:
        raise BadHeaderError("the header is too short for its addresses")
    return plain(str(ipaddress.ip_address(header[_V2_FIXED_BYTES : _V2_FIXED_BYTES + source_bytes])))
