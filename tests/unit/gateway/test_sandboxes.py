"""What a node is told of whose next task may run in a sandbox."""

from __future__ import annotations

from hashlib import sha256
from types import SimpleNamespace
from typing import Any

from gateway.usecases.sandboxes import reuse_of
from nodepool.settings import Settings


def told(*, owner: int = 1, node: str = "ann/pc", pools_own: bool = False, attempt: str = "a:1",
         tasks: int = 50, fresh: bool = False, secrets: str = "") -> dict[str, Any]:  # fmt: skip
    settings = Settings(_env_file=None, warm_sandbox_tasks=tasks, warm_sandbox_idle_minutes=2)
    tokens = SimpleNamespace(fingerprint=lambda text: sha256(text.encode()).hexdigest())
    gateway: Any = SimpleNamespace(settings=settings, tokens=tokens)
    row: Any = SimpleNamespace(owner_id=owner, attempt_id=attempt, fresh=fresh, secrets=secrets)
    return reuse_of(gateway, row, node, pools_own=pools_own)


def test_an_owner_has_one_word_on_a_node_and_another_elsewhere() -> None:
    here = told()
    assert (here["sandbox_tasks"], here["sandbox_idle_seconds"]) == (50, 120.0)
    assert here == told(attempt="b:1")
    words = {told(**changes)["sandbox_owner"] for changes in ({}, {"owner": 2}, {"node": "bob/pc"})}
    assert len(words) == 3
    assert "" not in words


def test_each_probe_looks_like_an_owner_of_its_own() -> None:
    words = {told(pools_own=True, attempt=attempt)["sandbox_owner"] for attempt in ("a:1", "b:1")}
    assert len(words | {told()["sandbox_owner"]}) == 3


def test_nothing_is_told_where_a_sandbox_is_for_one_task() -> None:
    assert told(fresh=True) == told(secrets='{"TOKEN": "token"}') == told(tasks=0) == told(tasks=1) == {}
