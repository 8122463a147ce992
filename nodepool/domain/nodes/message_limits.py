"""The largest message that a node without an agent takes, and what a refused one says of it. Pure.

Servers of gRPC take 4 MiB unless somebody has told them otherwise, and answer RESOURCE_EXHAUSTED to more.
That word has other meanings: a server that has as many calls as it takes says it too, and so does the pool's
own library of an answer that is larger than the pool takes. Sizes tell them apart. The sentences of gRPC's
libraries name the size that came and the limit; where a server says nothing of them, a message of more than
4 MiB was too large, and a smaller one met a server that is full.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nodepool.domain.sizes import KIB, MIB

USUAL_LIMIT_BYTES = 4 * MIB
# Nobody who serves packages takes less; who says so is full, or means something else.
LEAST_LIMIT_BYTES = 64 * KIB
# What is around the package in ExecuteTask: ids, amounts, and what protobuf needs to tell them apart.
AROUND_BYTES = 512
# A worker may have been started with another limit at the same place.
FORGOTTEN_SECONDS = 3600.0
_NUMBERS = re.compile(r"\d{1,15}")
_MOST_NUMBERS = 16


@dataclass(frozen=True, slots=True)
class Exhausted:
    """What RESOURCE_EXHAUSTED said; with neither, the node is full."""

    limit_bytes: int = 0  # the largest message that it takes
    answer_too_large: bool = False  # its answer is larger than the pool takes


def message_bytes(package_bytes: int) -> int:
    """Of a call that carries the package, at most."""
    return package_bytes + AROUND_BYTES


def exhausted(words: str, *, sent_bytes: int, own_limit_bytes: int) -> Exhausted:
    """`words` came with RESOURCE_EXHAUSTED to a message of `sent_bytes`."""
    named = [int(number) for number in _NUMBERS.findall(words)[:_MOST_NUMBERS]]
    if sent_bytes in named:
        limit = max((number for number in named if number < sent_bytes), default=0)
        if limit >= LEAST_LIMIT_BYTES:
            return Exhausted(_rounded(limit))
    elif own_limit_bytes in named and any(number > own_limit_bytes for number in named):
        return Exhausted(answer_too_large=True)
    if sent_bytes > USUAL_LIMIT_BYTES:
        return Exhausted(_rounded(sent_bytes - 1))
    return Exhausted()


def _rounded(limit_bytes: int) -> int:
    """Down to few different values: packages are told apart by them where they wait."""
    step = MIB if limit_bytes >= MIB else LEAST_LIMIT_BYTES
    return limit_bytes // step * step
