"""Names of strangers' machines, which the dispatcher calls: asked about once, and taken apart.

Which of the addresses may be called is for nodepool.domain.nodes.push_addresses to say.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_address

from nodepool.domain.errors import StateConflictError
from nodepool.domain.nodes.push_addresses import Address
from nodepool.domain.tasks.pool_result import printable

# host -> every address that it has. May raise OSError.
Resolve = Callable[[str], Sequence[str]]
_MAX_ADDRESSES = 64
# What resolving and `addresses_in` raise; TimeoutError is an OSError.
RESOLVING_ERRORS = (OSError, ValueError)


def resolve(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))[:_MAX_ADDRESSES]


def addresses_in(texts: Sequence[str]) -> list[Address]:
    """Without their zones. Raises ValueError."""
    return [ip_address(text.partition("%")[0]) for text in texts]


def not_resolved(host: str, error: Exception) -> StateConflictError:
    return StateConflictError(f"the name {host} could not be resolved: {printable(str(error)) or 'in time'}")
