"""Whose fault an end is: by its code, and by the words of agents that send none."""

from __future__ import annotations

import pytest

from nodepool.domain.tasks.reason_classes import TOLD_BY_NODES, ReasonClass, class_of, told_by_node
from nodepool.domain.tasks.reasons import ReasonCode, told
from nodepool.domain.tasks.states import Outcome

# Sentences that agents have used, and what they are.
OLD_WORDS = {
    "the image gpu:1 is not on this node, which never pulls images itself": ReasonCode.IMAGE_ABSENT,
    "the image 'x' is not one that this pool allows": ReasonCode.CANNOT_GIVE,
    "this node runs tasks without containers, and so without its GPU": ReasonCode.CANNOT_GIVE,
    "the node's disk or system failed: No space left on device": ReasonCode.DISK_FULL,
    "the node's disk or system failed: Disk quota exceeded": ReasonCode.DISK_FULL,
    "the container engine refused the task: mkdir x: no space left on device": ReasonCode.DISK_FULL,
    "the container engine refused the task: exec /bin/sh: exec format error": ReasonCode.OTHER_PLATFORM,
    "the container engine refused the task: no such device": ReasonCode.ENGINE_REFUSED,
    "the container engine does not answer: timed out": ReasonCode.ENGINE_AWAY,
    "the container engine lost the task: 500": ReasonCode.ENGINE_AWAY,
    "the package did not arrive whole: the SHA-256 differs": ReasonCode.PACKAGE_NOT_WHOLE,
    "the node has no room for more tasks": ReasonCode.NODE_BUSY,
    "the node is shutting down": ReasonCode.NODE_LEAVING,
}


@pytest.mark.parametrize(("words", "code"), OLD_WORDS.items())
def test_what_an_old_agent_says_has_a_code(words: str, code: ReasonCode) -> None:
    reason = told_by_node(Outcome.REFUSED, "", words)
    assert (reason.code, str(reason)) == (code, words)


def test_a_task_without_its_secrets_failed_by_itself_but_where_the_pool_cannot_read_them() -> None:
    assert class_of(Outcome.FAILED, ReasonCode.SECRET_GONE) is ReasonClass.TASK
    assert class_of(Outcome.FAILED, ReasonCode.SECRET_UNREADABLE) is ReasonClass.POOL


def test_a_code_counts_more_than_its_words_and_an_unknown_one_less() -> None:
    absent = "the image x is not on this node, which never pulls images itself"
    assert told_by_node(Outcome.REFUSED, "disk_full", absent).code is ReasonCode.DISK_FULL
    assert told_by_node(Outcome.REFUSED, "of a later version", absent).code is ReasonCode.IMAGE_ABSENT
    # A node does not say what only the pool can know.
    for code in set(ReasonCode) - TOLD_BY_NODES:
        assert told_by_node(Outcome.REFUSED, code, "no") == told("no")


@pytest.mark.parametrize("outcome", [Outcome.SUCCEEDED, Outcome.FAILED, Outcome.STOPPED])
def test_a_run_that_came_to_its_end_is_not_a_refusal_whatever_it_prints(outcome: Outcome) -> None:
    assert told_by_node(outcome, "disk_full", "No space left on device").code is ReasonCode.TOLD


def test_every_code_of_a_node_has_a_class_that_is_a_nodes() -> None:
    classes = {class_of(Outcome.REFUSED, code) for code in TOLD_BY_NODES}
    assert classes == {ReasonClass.NODE, ReasonClass.NODE_FOR_TASK}
    # Nobody knows better: then it is the node's.
    assert class_of(Outcome.LOST, ReasonCode.TOLD) is ReasonClass.NODE
    assert class_of(Outcome.FAILED, ReasonCode.TOLD) is ReasonClass.TASK
    assert class_of(Outcome.SUCCEEDED, ReasonCode.NONE) is ReasonClass.NONE
    assert class_of(Outcome.LOST, ReasonCode.EVICTED) is ReasonClass.POOL
