"""What the yardstick's tasks wrote down is read as what they did."""

from __future__ import annotations

from tests.chaos.journal import executions, runs_of, samples_of, tokens_of

TEXT = """\
begun t1 aa 1.0 celery@w1 10
begun t2 bb 1.5 celery@w2 20
done t1 aa 2.0 celery@w1 10
begun t2 cc 4.0 celery@w1 11
done t2 cc 5.0 celery@w1 11
begun t1 dd 6.0 celery@w2 21
done t1 dd 7.0 celery@w2 21
"""
NODES = ["celery@w1", "celery@w2"]


def test_effects_are_of_runs_that_came_to_their_ends() -> None:
    assert tokens_of(executions(TEXT)) == {"t1": "aa dd", "t2": "cc"}


def test_each_execution_is_a_run_on_its_node() -> None:
    runs = runs_of(executions(TEXT))
    assert [(run.node_id, run.began, run.ended) for run in runs] == [
        ("celery@w1", 1.0, 2.0),
        ("celery@w2", 1.5, 1.5),
        ("celery@w1", 4.0, 5.0),
        ("celery@w2", 6.0, 7.0),
    ]


def test_who_waits_was_accepted_and_has_not_begun() -> None:
    looks = [
        (1.2, frozenset({"t1", "t2", "t3"}), frozenset(NODES)),
        (4.5, frozenset({"t2", "t3"}), frozenset()),
    ]
    first, second = samples_of(looks, executions(TEXT), NODES)
    assert (first.waiting, first.running) == (2, {"celery@w1": 1, "celery@w2": 0})
    # What was never done is thought to have run for some seconds.
    assert (second.waiting, second.running) == (1, {"celery@w1": 1, "celery@w2": 0})
