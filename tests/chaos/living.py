"""Which attempts have a living process or container on this machine, whatever the pool thinks of them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import docker

from worker_agent.runners.sandbox import ATTEMPT_VARIABLE, LABEL_ATTEMPT, LABEL_NODE

_PROC = Path("/proc")
# A process becomes a run's when it has begun its program.
_YOUNG_SECONDS = 3.0
_MARK = f"{ATTEMPT_VARIABLE}=".encode()


class Living(Protocol):
    def now(self) -> set[str]:
        """Ids of attempts."""
        ...


class LivingProcesses:
    """Of the process runner, by the variable that each of a run's processes has. Looks at new ones only."""

    def __init__(self) -> None:
        # (process, when it began) -> its attempt, or when it was seen first.
        self._known: dict[tuple[int, str], str | float] = {}

    def now(self) -> set[str]:
        at, seen = time.monotonic(), {}
        for name in (it.name for it in _PROC.iterdir() if it.name.isdigit()):
            key = _identity(name)
            if key is None:
                continue
            known = self._known.get(key, at)
            if isinstance(known, float) and at - known < _YOUNG_SECONDS:
                known = _attempt_of(name) or known
            seen[key] = known
        self._known = seen
        return {it for it in seen.values() if isinstance(it, str)}


def _identity(name: str) -> tuple[int, str] | None:
    """None for one that has ended, also where nobody has taken notice."""
    try:
        after = (_PROC / name / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if after[0] in "ZX" else (int(name), after[19])


def _attempt_of(name: str) -> str:
    try:
        environment = (_PROC / name / "environ").read_bytes()
    except OSError:
        return ""
    found = [it for it in environment.split(b"\0") if it.startswith(_MARK)]
    return found[0].removeprefix(_MARK).decode() if found else ""


class LivingContainers:
    """Of the Docker runner, by the labels of their nodes."""

    def __init__(self, client: docker.DockerClient, node_ids: Iterable[str]) -> None:
        self._client, self._nodes = client, frozenset(node_ids)

    def now(self) -> set[str]:
        found = self._client.api.containers(filters={"label": LABEL_ATTEMPT, "status": "running"})
        labels = [it["Labels"] for it in found]
        return {it[LABEL_ATTEMPT] for it in labels if it.get(LABEL_NODE) in self._nodes}
