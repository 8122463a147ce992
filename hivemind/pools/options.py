"""What a task may be given with `Pool.submit`, `Pool.map` and `Pool.executor`: one list of names for all of
them.

Every name of `TaskNeeds` is one, so that what a task can ask for can be asked for here.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypedDict

from hivemind.amounts import gibibytes_of, mebibytes_of
from hivemind.errors import InvalidInputError
from hivemind.needs import TaskNeeds


class SubmitOptions(TypedDict, total=False):
    """`env`, `memory` and `gpu_memory` are `environment`, memory and GPU memory with a unit; the rest is
    `TaskNeeds`."""

    name: str
    labels: Mapping[str, str]
    env: Mapping[str, str]
    memory: str
    cpu_score: int
    gpu_score: int
    gpu_memory: str
    gpu_name: str
    location: str
    location_mode: str
    image: str
    network: bool
    max_minutes: int
    priority: int | None
    min_trust: str
    replicas: int
    compare_outputs: Sequence[str]
    take_pending: bool
    exclusive: bool
    fresh: bool
    secrets: Sequence[str]
    secrets_on_low_trust: bool
    retries: int
    retry_on: Sequence[int]
    backoff_seconds: int
    after: Sequence[str]
    after_any: Sequence[str]
    notify: Sequence[str]


# What is said with a unit here.
_IN_OTHER_WORDS = {
    "environment": "env",
    "memory_gb": "memory",
    "memory_mb": "memory",
    "gpu_memory_gb": "gpu_memory",
}
# What a submit says by itself.
_NOT_HERE = {"arguments": "give them after the path: pool.submit(path, *arguments)"}


def names() -> tuple[str, ...]:
    known = {field.name for field in fields(TaskNeeds)} - _IN_OTHER_WORDS.keys() - _NOT_HERE.keys()
    return tuple(sorted(known | set(_IN_OTHER_WORDS.values())))


def needs_of(options: Mapping[str, Any], *, arguments: Sequence[str] = ()) -> TaskNeeds:
    """What the options ask for. Raises InvalidInputError."""
    known = names()
    for name in options:
        if name not in known:
            raise InvalidInputError(_unknown(name, known))
    wanted = {name: value for name, value in options.items() if name not in ("env", "memory", "gpu_memory")}
    if "env" in options:
        wanted["environment"] = options["env"]
    if "memory" in options:
        wanted["memory_mb"] = mebibytes_of(options["memory"], "memory")
    if "gpu_memory" in options:
        wanted["gpu_memory_gb"] = gibibytes_of(options["gpu_memory"], "gpu_memory")
    return TaskNeeds(arguments=tuple(arguments), **wanted)


def changes_of(options: Mapping[str, Any]) -> tuple[TaskNeeds, tuple[str, ...]]:
    """What is to be another when a task is done again, and which fields say so. Raises InvalidInputError."""
    needs = needs_of(options)
    words = {"env": ("environment",), "memory": ("memory_gb", "memory_mb"), "gpu_memory": ("gpu_memory_gb",)}
    return needs, tuple(sorted(field for name in options for field in words.get(name, (name,))))


def _unknown(name: str, known: Sequence[str]) -> str:
    if name in _NOT_HERE:
        return f"{name}: {_NOT_HERE[name]}"
    if name in _IN_OTHER_WORDS:
        return f'there is no option {name}: say {_IN_OTHER_WORDS[name]}, as memory="1.5G", env={{"A": "1"}}'
    near = difflib.get_close_matches(name, known, 1)
    meant = f"; do you mean {near[0]}?" if near else ""
    return f"there is no option {name}{meant} There are: {', '.join(known)}"
