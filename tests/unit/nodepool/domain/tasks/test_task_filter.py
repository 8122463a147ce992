"""What may be asked of a list of tasks, and when two questions are the same."""

from __future__ import annotations

from typing import Any

import pytest

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.tasks.states import TaskState
from nodepool.domain.tasks.task_filter import TaskFilter, states_of


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"name": "n" * 129}, "at most 128"),
        ({"name": "a\nb"}, "printable"),
        ({"labels": {"k": "\x1b[2J"}}, "printable"),
        ({"labels": {"": "v"}}, "a label's key"),
        ({"labels": {"k" * 64: "v"}}, "a label's key"),
        ({"labels": {"k": "v" * 129}}, "at most 128"),
        ({"labels": {f"k{number}": "" for number in range(33)}}, "at most 32 labels"),
        ({"node_id": "no node"}, "node_id must be"),
        ({"job_id": "../x"}, "job_id must be"),
        ({"since": float("nan")}, "since must be a time"),
        ({"since": float("inf")}, "since must be a time"),
        ({"until": -1.0}, "until must be a time"),
        ({"until": 1e300}, "until must be a time"),
        ({"since": 2.0, "until": 2.0}, "nothing lies between"),
    ],
)
def test_a_question_that_is_none_is_refused(asked: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        TaskFilter(**asked)


def test_states_are_told_by_their_words() -> None:
    assert states_of(["FAILED", "QUEUED", "FAILED"]) == (TaskState.FAILED, TaskState.QUEUED)
    for word in ("failed", "COMPLETED", "", "__class__"):
        with pytest.raises(InvalidInputError, match="is none of QUEUED, WAITING, PLACED"):
            states_of([word])


def test_the_same_question_has_one_digest_and_others_have_others() -> None:
    one = TaskFilter(labels={"a": "1", "b": "2"}, states=(TaskState.FAILED, TaskState.QUEUED))
    same = TaskFilter(labels={"b": "2", "a": "1"}, states=(TaskState.QUEUED, TaskState.FAILED))
    others = [
        TaskFilter(), TaskFilter(name="a"), TaskFilter(labels={"a": "1"}), TaskFilter(node_id="a"),
        TaskFilter(job_id="a"), TaskFilter(since=1.0), TaskFilter(until=1.0), one,
    ]  # fmt: skip
    assert one.digest() == same.digest()
    assert len({other.digest() for other in others}) == len(others)
