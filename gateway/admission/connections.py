"""The gateway's TCP connections, as the kernel knows them: how many an address has, and what came over one.

gRPC tells neither, and cannot end a connection whose client does not read. The kernel tells, for the
process's own descriptors. They are looked at and never copied or closed: to close a copy of one that has
become a file's in between would drop SQLite's locks. Where there is no /proc nothing is known.
"""

from __future__ import annotations

import os
import resource
import socket
import stat
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote

from nodepool.settings import Settings

# Databases, Redis, files of packages.
_OTHER_DESCRIPTORS = 512
_DESCRIPTORS = Path("/proc/self/fd")
# struct tcp_info, linux/tcp.h: tcpi_bytes_received is 64 bits at this offset.
_BYTES_RECEIVED_AT = 128
_TCP_INFO_BYTES = 192


def peer_name(host: str, port: int) -> str:
    """A connection's other end, as gRPC writes it."""
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


def plain_peer(peer: str) -> str:
    """gRPC's name of a peer as peer_name() writes it."""
    return unquote(peer)


def connections(ports: Collection[int]) -> dict[str, int]:
    """The connections to these ports of ours: descriptors by the peer's name."""
    found: dict[str, int] = {}
    for descriptor in _descriptors():
        with suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
        with suppress(OSError, ValueError), _look(descriptor) as line:
            if line.family in (socket.AF_INET, socket.AF_INET6) and line.getsockname()[1] in ports:
                found[_peer_of(line)] = descriptor
    return found


def bytes_received(descriptor: int, peer: str) -> int | None:
    """All that came over the connection; None where it is gone or the kernel does not tell."""
    with suppress(OSError, ValueError, struct.error), _look(descriptor) as line:
        if _peer_of(line) == peer:
            told = line.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
            return int(struct.unpack_from("=Q", told, _BYTES_RECEIVED_AT)[0])
    return None


def end(descriptor: int, peer: str) -> bool:
    """Ends the connection for both sides; its owner in this process closes it. False where it is gone."""
    with suppress(OSError, ValueError), _look(descriptor) as line:
        if _peer_of(line) == peer:
            line.shutdown(socket.SHUT_RDWR)
            return True
    return False


def bound_connections(
    ports: Collection[int], most: int, calls_of: Callable[[str], int], address_of: Callable[[str], str]
) -> dict[str, int]:
    """Ends what each address has of connections over `most`, first those with the fewest calls; how many of
    which address.

    `address_of` is empty for a peer that is not bounded so.
    """
    by_address: dict[str, list[str]] = defaultdict(list)
    found = connections(ports)
    for peer in found:
        if address := address_of(peer):
            by_address[address].append(peer)
    ended: Counter[str] = Counter()
    for address, peers in by_address.items():
        if len(peers) > most:
            for peer in sorted(peers, key=calls_of)[: len(peers) - most]:
                ended[address] += end(found[peer], peer)
    return +ended


def allow_descriptors(settings: Settings) -> None:
    """As many open files as the connections need, and what the process has besides, where it may.

    One that comes with a PROXY header needs two more, to get from there to gRPC.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    of_one = 3 if settings.proxy_protocol_port else 1
    wanted = of_one * settings.grpc_max_connections + _OTHER_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _descriptors() -> list[int]:
    try:
        return [int(path.name) for path in _DESCRIPTORS.iterdir()]
    except OSError:
        return []


@contextmanager
def _look(descriptor: int) -> Iterator[socket.socket]:
    line = socket.socket(fileno=descriptor)
    try:
        yield line
    finally:
        line.detach()


def _peer_of(line: socket.socket) -> str:
    host, port = line.getpeername()[:2]
    # A socket of both families writes IPv4 so; gRPC does not.
    return peer_name(host.removeprefix("::ffff:") if "." in host else host, port)
