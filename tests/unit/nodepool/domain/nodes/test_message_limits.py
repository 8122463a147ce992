"""What RESOURCE_EXHAUSTED says of a node: the largest message that it takes, that it is full, or neither."""

from __future__ import annotations

import pytest

from nodepool.domain.nodes.message_limits import AROUND_BYTES, Exhausted, exhausted, message_bytes
from nodepool.domain.sizes import MIB, size_words

OWN = 100 * MIB
SENT = 6 * MIB + 77
FULL, ANSWER = Exhausted(), Exhausted(answer_too_large=True)


@pytest.mark.parametrize(
    ("words", "sent", "said"),
    [
        # The libraries' own sentences: C++ and Python, Go, Java, tonic.
        (f"SERVER: Received message larger than max ({SENT} vs. 4194304)", SENT, Exhausted(4 * MIB)),
        (f"grpc: received message larger than max ({SENT} vs. 4194304)", SENT, Exhausted(4 * MIB)),
        (f"gRPC message exceeds maximum size 4194304: {SENT}", SENT, Exhausted(4 * MIB)),
        (f"length too large: found {SENT} bytes, the limit is: 5500000 bytes", SENT, Exhausted(5 * MIB)),
        (f"larger than max ({2 * MIB} vs. 1048576)", 2 * MIB, Exhausted(MIB)),
        (f"larger than max ({2 * MIB} vs. 200000)", 2 * MIB, Exhausted(3 << 16)),
        # No sizes: what is over the usual limit was too large, and the bound is below what was refused.
        ("Received message exceeds the maximum configured message size.", SENT, Exhausted(6 * MIB)),
        ("", 6 * MIB, Exhausted(5 * MIB)),
        ("", 4 * MIB + 1, Exhausted(4 * MIB)),
        # What any server of gRPC takes met one that is full.
        ("Concurrent RPC limit exceeded!", 4 * MIB, FULL),
        ("", 1000, FULL),
        # No bound is learnt that nobody has.
        (f"larger than max ({MIB} vs. 10)", MIB, FULL),
        (f"larger than max ({SENT} vs. 10)", SENT, Exhausted(6 * MIB)),
        (f"{SENT}", 1000, FULL),
        # The other direction: the pool's own library of an answer.
        (f"CLIENT: Received message larger than max ({OWN + 1} vs. {OWN})", 1000, ANSWER),
        (f"CLIENT: Received message larger than max ({OWN + 1} vs. {OWN})", SENT, ANSWER),
        (f"larger than max ({OWN} vs. {OWN})", 1000, FULL),
        ("9" * 5000, 1000, FULL),
    ],
)
def test_sizes_tell_what_was_meant(words: str, sent: int, said: Exhausted) -> None:
    assert exhausted(words, sent_bytes=sent, own_limit_bytes=OWN) == said


@pytest.mark.parametrize("sent", [message_bytes(4 * MIB), 5 * MIB, 5 * MIB + 1, 64 * MIB])
@pytest.mark.parametrize("words", ["", "larger than max ({} vs. 4194305)"])
def test_what_was_refused_is_over_the_bound_that_is_learnt(sent: int, words: str) -> None:
    said = exhausted(words.format(sent), sent_bytes=sent, own_limit_bytes=OWN)
    assert 4 * MIB <= said.limit_bytes < sent
    assert message_bytes(sent - AROUND_BYTES) > said.limit_bytes


def test_sizes_read_as_people_say_them() -> None:
    counts = (4 * MIB, SENT, 6 * MIB + MIB // 3, 1 << 19)
    assert [size_words(count) for count in counts] == ["4 MiB", "6 MiB", "6.3 MiB", "512 KiB"]
