"""What the agent makes of the entries of its assigned list."""

from __future__ import annotations

import pytest

from worker_agent.heartbeat import parse_assigned
from worker_agent.state import Allocation, AssignedListing

ENTRIES = {
    "an entry of the pool": (
        '{"at": 1.0, "stop": true, "claim": {"cpu_score": 100, "memory_mb": 512, "tasks": 1}}',
        AssignedListing(stop=True, allocation=Allocation(memory_mb=512, cpu_score=100)),
    ),
    "no claim": ('{"at": 1.0, "stop": false}', AssignedListing()),
    "a claim that says nothing": ('{"stop": true, "claim": {}}', AssignedListing(stop=True)),
    "a claim of another kind": ('{"stop": true, "claim": [1]}', AssignedListing(stop=True)),
    "amounts that are none": ('{"claim": {"cpu_score": "x", "memory_mb": Infinity}}', AssignedListing()),
    "not JSON": ("{", AssignedListing()),
    "not an object": ("7", AssignedListing()),
}


@pytest.mark.parametrize(("text", "listing"), ENTRIES.values(), ids=ENTRIES.keys())
def test_an_attempt_is_listed_whatever_its_entry_says(text: str, listing: AssignedListing) -> None:
    assert parse_assigned({"t:1": text}) == {"t:1": listing}
