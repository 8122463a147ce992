"""What is there for threads is there for asyncio, with the same arguments."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest

import hivemind
from hivemind.connecting import connect, connect_async
from hivemind.needs import TaskNeeds
from hivemind.pools.aio import AsyncJobTasks
from hivemind.pools.options import SubmitOptions, names
from hivemind.pools.sync import JobTasks

_OF_THE_OTHER = {
    "__iter__": "__aiter__",
    "__enter__": "__aenter__",
    "__exit__": "__aexit__",
}
PAIRS = [
    (hivemind.Pool, hivemind.AsyncPool),
    (hivemind.Task, hivemind.AsyncTask),
    (hivemind.Job, hivemind.AsyncJob),
    (JobTasks, AsyncJobTasks),
]


def names_of(kind: type) -> set[str]:
    mine = {name for base in kind.__mro__[:-1] for name in vars(base)}
    shown = {
        name for name in mine if not name.startswith("_") or name in _OF_THE_OTHER or name == "__await__"
    }
    return {_OF_THE_OTHER.get(name, name) for name in shown | (mine & set(_OF_THE_OTHER.values()))}


def arguments_of(function: Any) -> list[tuple[str, Any, Any]]:
    parameters = inspect.signature(function).parameters.values()
    return [(each.name, each.kind, each.default) for each in parameters]


@pytest.mark.parametrize(("plain", "asynchronous"), PAIRS)
def test_both_have_the_same_names_and_arguments(plain: type, asynchronous: type) -> None:
    assert names_of(plain) == names_of(asynchronous)
    for name in names_of(plain) - set(_OF_THE_OTHER.values()) - {"__await__"}:
        first, second = getattr(plain, name), getattr(asynchronous, name)
        if isinstance(first, property):
            assert isinstance(second, property), name
        elif callable(first):
            assert arguments_of(first) == arguments_of(second), name


def test_both_are_connected_in_the_same_way() -> None:
    assert arguments_of(connect) == arguments_of(connect_async)


def test_whatever_a_task_can_ask_for_can_be_asked_for_here() -> None:
    in_other_words = {
        "environment": "env",
        "memory_gb": "memory",
        "memory_mb": "memory",
        "gpu_memory_gb": "gpu_memory",
    }
    fields = {field.name for field in dataclasses.fields(TaskNeeds)} - {"arguments"}
    assert {in_other_words.get(name, name) for name in fields} == set(names())
    assert set(SubmitOptions.__annotations__) == set(names()), "SubmitOptions of hivemind/pools/options.py"
