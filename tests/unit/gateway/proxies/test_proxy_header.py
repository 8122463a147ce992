"""PROXY headers, whole and in pieces, and what is none."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given, strategies as st

from gateway.proxies.proxy_header import MOST_BYTES, BadHeaderError, HeaderReader, ReadHeader

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL, PROXY, TCP4, TCP6, UNIX = 0x20, 0x21, 0x11, 0x21, 0x31
REST = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def version_2(command: int, family: int, addresses: bytes, tlvs: bytes = b"") -> bytes:
    body = addresses + tlvs
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


def addresses(source: str, ports: tuple[int, int] = (51000, 443)) -> bytes:
    packed = ipaddress.ip_address(source).packed
    return packed + bytes(len(packed)) + struct.pack("!HH", *ports)


FOUR = version_2(PROXY, TCP4, addresses("203.0.113.9"))
# A checksum, a host name, and one that nobody has heard of, longer than it says it may be.
TLVS = struct.pack("!BHI", 3, 4, 0) + struct.pack("!BH", 2, 7) + b"gateway" + struct.pack("!BH", 0xEE, 500)


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (FOUR, "203.0.113.9"),
        (version_2(PROXY, TCP4, addresses("203.0.113.9"), TLVS), "203.0.113.9"),
        (version_2(PROXY, TCP6, addresses("2001:db8::7")), "2001:db8::7"),
        (version_2(PROXY, TCP6, addresses("::ffff:203.0.113.9"), TLVS), "203.0.113.9"),
        (version_2(PROXY, UNIX, bytes(216)), ""),
        (version_2(PROXY, 0x00, b""), ""),
        (version_2(PROXY, 0x41, b"of a family to come"), ""),
        (version_2(LOCAL, 0x00, b""), None),
        (version_2(LOCAL, TCP4, addresses("203.0.113.9"), TLVS), None),
        (b"PROXY TCP4 203.0.113.9 192.0.2.1 51000 443\r\n", "203.0.113.9"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 51000 443\r\n", "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n", ""),
        (b"PROXY UNKNOWN 203.0.113.9 192.0.2.1 51000 443\r\n", ""),
    ],
)
def test_a_header_is_read_however_it_comes_and_the_rest_is_kept(header: bytes, client: str | None) -> None:
    assert HeaderReader().feed(header + REST) == ReadHeader(client, REST)
    reader = HeaderReader()
    found = [reader.feed(bytes([byte])) for byte in header]
    assert found == [None] * (len(header) - 1) + [ReadHeader(client, b"")]


@pytest.mark.parametrize(
    "data",
    [
        REST,
        b"\x16\x03\x01\x02\x00\x01",  # TLS
        b"GET / HTTP/1.1\r\n",
        b"PROXY " + b"1" * 200,
        b"PROXY TCP4 203.0.113.9 192.0.2.1 51000\r\n",
        b"PROXY TCP4 203.0.113.9 192.0.2.1 51000 443 x\r\n",
        b"PROXY TCP4 203.0.113.9 192.0.2.1 51000 65536\r\n",
        b"PROXY TCP4 203.0.113.9 192.0.2.1 51000 -1\r\n",
        b"PROXY TCP4 2001:db8::7 192.0.2.1 51000 443\r\n",
        b"PROXY TCP4 203.0.113.09 192.0.2.1 51000 443\r\n",
        b"PROXY TCP4 \xff\xfe 192.0.2.1 51000 443\r\n",
        b"PROXY TCP5 203.0.113.9 192.0.2.1 51000 443\r\n",
        b"PROXY \r\n",
        version_2(0x22, TCP4, addresses("203.0.113.9")),
        version_2(0x11, TCP4, addresses("203.0.113.9")),
        version_2(PROXY, TCP4, b"\xcb"),
        version_2(PROXY, TCP6, addresses("203.0.113.9")),
        SIGNATURE + struct.pack("!BBH", PROXY, TCP4, MOST_BYTES),
    ],
)
def test_what_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(BadHeaderError):
        HeaderReader().feed(data)


@given(st.binary(max_size=64), st.sampled_from([b"", SIGNATURE, b"PROXY ", FOUR[:15], b"PROXY TCP6 "]))
def test_no_bytes_do_anything_else(data: bytes, begin: bytes) -> None:
    try:
        HeaderReader().feed(begin + data)
    except BadHeaderError:
        return
