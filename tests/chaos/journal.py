"""What the yardstick's tasks wrote down, read as runs on nodes. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from tests.chaos.history import Run, Sample

# Beyond this a run that was begun and never done was ended with its worker.
_LONGEST_RUN_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Execution:
    """One run of a task's program. `done`: None where it never came to its end."""

    task_id: str
    token: str
    node_id: str
    begun: float
    done: float | None


def executions(text: str) -> tuple[Execution, ...]:
    begun: dict[str, list[str]] = {}
    done: dict[str, float] = {}
    for line in text.splitlines():
        word, task_id, token, at, host, _pid = line.split(" ")
        if word == "begun":
            begun[token] = [task_id, at, host]
        else:
            done[token] = float(at)
    return tuple(
        Execution(task_id, token, host, float(at), done.get(token))
        for token, (task_id, at, host) in begun.items()
    )


def tokens_of(found: tuple[Execution, ...]) -> Mapping[str, str]:
    """Of each task the runs that came to their ends: its effects."""
    tokens: dict[str, list[str]] = defaultdict(list)
    for it in sorted(found, key=lambda it: it.begun):
        if it.done is not None:
            tokens[it.task_id].append(it.token)
    return {task_id: " ".join(several) for task_id, several in tokens.items()}


def runs_of(found: tuple[Execution, ...]) -> tuple[Run, ...]:
    """Each by a name of its own: that a task runs again is told by its effects."""
    return tuple(
        Run(it.token, it.node_id, it.begun, it.done if it.done is not None else it.begun)
        for it in sorted(found, key=lambda it: it.begun)
    )


def samples_of(
    looks: list[tuple[float, frozenset[str], frozenset[str]]], found: tuple[Execution, ...], nodes: list[str]
) -> tuple[Sample, ...]:
    """`looks`: when, the tasks that were accepted and not fetched, the nodes that were there."""
    samples = []
    for at, outstanding, ready in looks:
        running: dict[str, int] = dict.fromkeys(nodes, 0)
        begun = set()
        for it in found:
            if it.begun <= at:
                begun.add(it.task_id)
                end = it.done if it.done is not None else it.begun + _LONGEST_RUN_SECONDS
                running[it.node_id] += at < end
        samples.append(Sample(at, len(outstanding - begun), running, ready))
    return tuple(samples)
