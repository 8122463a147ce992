"""Reasons: what people read for each of them, and that they come back from SQL as they were."""

from __future__ import annotations

import pytest

from nodepool.domain.tasks.clauses import Clause, ClauseKind
from nodepool.domain.tasks.reason_classes import TOLD_BY_NODES
from nodepool.domain.tasks.reasons import (
    NO_REASON,
    Reason,
    ReasonCode,
    because,
    no_node,
    parameters_of,
    stored,
    told,
    waits_for_cpt,
)

NODE = "bob/pc"
BUSY = {Clause(ClauseKind.OFFLINE): 1, Clause(ClauseKind.BUSY, "memory_mb"): 2}
EVICTED = because(ReasonCode.EVICTED, node=NODE)
# Clients show these words, and people search for them.
WORDS: list[tuple[Reason, str]] = [
    (NO_REASON, ""),
    (told("no Docker here"), "no Docker here"),
    (no_node(0, {}, hopeless=False), "waiting: no node has joined the pool yet"),
    (no_node(3, BUSY, hopeless=False), "waiting: looked at 3 nodes: 2 busy: memory, 1 offline"),
    (
        no_node(1, {Clause(ClauseKind.TOO_SMALL, "tasks"): 1}, hopeless=True),
        "no node of the pool can ever run this: looked at 1 nodes: 1 too small: task slots",
    ),
    (
        because(ReasonCode.RUNNING_LIMIT_BELOW, running=5, score=50),
        "its owner has 5 tasks running, as many as a credit score below 50 allows",
    ),
    (
        because(ReasonCode.RUNNING_LIMIT_FROM, running=9, score=100),
        "its owner has 9 tasks running, as many as a credit score of 100 or more allows",
    ),
    (waits_for_cpt(60), "waiting for CPT: 60 are set aside when it is placed, and its owner has less"),
    (
        because(ReasonCode.RETRY, number=1, tries=4, last=told("exit code 75")),
        "try 1 of 4 failed (exit code 75); it is tried again",
    ),
    (
        because(ReasonCode.AFTER_OTHERS, after="task a, job b"),
        "waiting for other tasks: it comes after task a, job b",
    ),
    (
        because(ReasonCode.NEEDED_FAILED, needed="task a", ended="has failed"),
        "stopped before it ran: it comes after task a, which has failed",
    ),
    (
        because(ReasonCode.INPUTS_TOO_LARGE, found_bytes=3 << 20, limit_bytes=1 << 20),
        (
            "stopped before it ran: the results that it is given have 3 MiB, over the 1 MiB that this pool "
            "gives to one run"
        ),
    ),
    (because(ReasonCode.STOPPED), "stopped by its owner"),
    (because(ReasonCode.STOPPED_WAITING), "stopped by its owner before it ran"),
    (because(ReasonCode.STOPPED_UNSENT), "stopped by its owner before it was sent to its node"),
    (because(ReasonCode.STOPPED_BY_POOL), "stopped by its owner; its node did not end it"),
    (
        because(ReasonCode.STOPPED_BY_POOL_AFTER, seconds=30.0),
        "stopped by its owner; its node did not end it within 30 s",
    ),
    (because(ReasonCode.STOPPED_BY_OPERATOR), "stopped by the pool's operator"),
    (because(ReasonCode.LONGEST_RUN, minutes=7), "ended after its longest run, 7 minutes"),
    (
        because(ReasonCode.LONGEST_RUN_BY_POOL, minutes=7),
        "ended after its longest run, 7 minutes; its node did not end it",
    ),
    (because(ReasonCode.NODE_LEFT, node=NODE), "node bob/pc left the pool"),
    (because(ReasonCode.NODE_LATE, node=NODE, seconds=2.5), "node bob/pc was not heard of for 2.5 s"),
    (because(ReasonCode.NEVER_BEGUN, node=NODE), "node bob/pc took it and never began it"),
    (because(ReasonCode.NOT_LISTED, node=NODE), "node bob/pc does not have it"),
    (EVICTED, "evicted: node bob/pc ran short of memory"),
    (because(ReasonCode.POOL_AWAY, node=NODE), "node bob/pc ended it while the pool was away"),
    (because(ReasonCode.OWNER_ONLY, node=NODE), "node bob/pc takes its owner's tasks only"),
    (
        because(ReasonCode.NOT_ABLE, node=NODE),
        "the agent of node bob/pc is too old for what the task is given",
    ),
    (
        because(ReasonCode.NOT_TRUSTED, node=NODE),
        "node bob/pc is of low trust now, and its owner could read the task's secrets",
    ),
    (because(ReasonCode.SECRET_GONE, name="TOKEN"), "its secret TOKEN was removed before it began"),
    (
        because(ReasonCode.SECRET_UNREADABLE, name="TOKEN"),
        (
            "the pool cannot read its secret TOKEN any more, as its STORAGE_KEY is another one now: set the "
            "secret again"
        ),
    ),
    (
        because(ReasonCode.SECRETS_TOO_LARGE, have_bytes=33 << 10, limit_bytes=32 << 10),
        "its secrets have 33 KiB together now, over the 32 KiB that a task is given",
    ),
    (
        because(ReasonCode.IDLE, node=NODE, minutes=4),
        "node bob/pc took it and did nothing for 4 minutes",
    ),
    (because(ReasonCode.RESTORED), "the pool was restored from a backup while it ran"),
    *((because(code, detail="no gzip"), "no gzip") for code in sorted(TOLD_BY_NODES)),
    (because(ReasonCode.NEVER_CALLED, node=NODE), "the pool did not get to call node bob/pc"),
    (because(ReasonCode.NOT_CALLED, node=NODE, detail="no port"), "node bob/pc is not called: no port"),
    (because(ReasonCode.PACKAGE_UNREADABLE, detail="damaged"), "its package could not be read: damaged"),
    (because(ReasonCode.CALL_UNANSWERED, node=NODE), "node bob/pc was called and said nothing"),
    (
        because(ReasonCode.CALL_UNANSWERED_FOR, node=NODE, seconds=10.5),
        "node bob/pc was called and said nothing for 10.5 s",
    ),
    (because(ReasonCode.CALL_FAILED, node=NODE, detail="gone"), "node bob/pc was called: gone"),
    (
        because(ReasonCode.MESSAGE_TOO_LARGE, node=NODE, limit_bytes=4 << 20, package_bytes=6_606_029),
        "node bob/pc takes messages of at most 4 MiB, and the package has 6.3 MiB",
    ),
    (
        because(ReasonCode.RESULT_TOO_LARGE, limit_bytes=95 << 20),
        "its result is larger than the 95 MiB that this pool takes",
    ),
    (
        because(ReasonCode.SILENT, node=NODE, seconds=61.4),
        "node bob/pc said nothing of it for 61 s, nor when it was asked",
    ),
    (because(ReasonCode.REFUSED_BY_NODE, node=NODE, detail="busy"), "node bob/pc refused it: busy"),
    (
        because(ReasonCode.NO_RESULT, node=NODE, detail="not a ZIP"),
        "node bob/pc answered with what is no result: not a ZIP",
    ),
    (because(ReasonCode.FAILED_ON_NODE), "its node reported that it failed"),
    (because(ReasonCode.FAILED_ON_NODE_WITH, detail="{oops}"), "its node reported that it failed: {oops}"),
    (
        because(ReasonCode.GIVEN_UP, attempts=3, last=EVICTED),
        "given up after 3 attempts were lost; the last: evicted: node bob/pc ran short of memory",
    ),
    (
        because(ReasonCode.RETRIES_USED, tries=4, last=told("exit code 75")),
        "failed in each of 4 tries; the last: exit code 75",
    ),
    (because(ReasonCode.NOT_NEEDED), "the other runs of the task have decided"),
    (
        because(ReasonCode.RUNS_DIFFER, runs=3, results=2),
        (
            "its 3 runs returned 2 different results, and no more owners could be asked: compare only files "
            "that are the same in every run, with compare_outputs"
        ),
    ),
    (because(ReasonCode.UNVERIFIED), "it could not be verified"),
    (
        because(ReasonCode.UNVERIFIED_AFTER, last=because(ReasonCode.GIVEN_UP, attempts=2, last=EVICTED)),
        (
            "it could not be verified: given up after 2 attempts were lost; the last: evicted: "
            "node bob/pc ran short of memory"
        ),
    ),
    (
        because(ReasonCode.REPLACED),
        "its first result was false, as other nodes found; this is the one that they agree on",
    ),
    (
        because(ReasonCode.REPLACED_STATE, state="failed"),
        "its first result was false: other nodes agree that it failed",
    ),
]


@pytest.mark.parametrize(("reason", "words"), WORDS, ids=[reason.code or "none" for reason, _ in WORDS])
def test_a_reason_reads_as_it_always_did_and_comes_back_from_sql(reason: Reason, words: str) -> None:
    assert str(reason) == words
    assert bool(reason) == bool(words)
    assert stored(reason.code.value, reason.parameters_as_json(), words) == reason


def test_every_reason_is_in_the_table_above() -> None:
    assert {reason.code for reason, _ in WORDS} == set(ReasonCode)


@pytest.mark.parametrize(
    ("code", "parameters"),
    [("", ""), ("of a later version", "{}"), ("evicted", ""), ("evicted", "{"), ("given_up", '{"last": 1}')],
)
def test_what_cannot_be_read_by_its_code_is_what_its_words_say(code: str, parameters: str) -> None:
    assert stored(code, parameters, "some words") == told("some words")


def test_a_reason_has_the_parameters_that_its_words_need() -> None:
    assert parameters_of(ReasonCode.NODE_LATE) == {"node", "seconds"}
    with pytest.raises(ValueError, match="NODE_LATE has the parameters"):
        because(ReasonCode.NODE_LATE, node=NODE)
    with pytest.raises(ValueError, match="STOPPED has the parameters"):
        because(ReasonCode.STOPPED, node=NODE)


def test_a_clause_passes_where_waiting_may_help() -> None:
    assert {kind for kind in ClauseKind if Clause(kind).passes} == {
        ClauseKind.REFUSED_IT,
        ClauseKind.IMAGE,
        ClauseKind.MESSAGE_SIZE,
        ClauseKind.UNTOLD,
        ClauseKind.OFFLINE,
        ClauseKind.UNFIT,
        ClauseKind.BACKS_OFF,
        ClauseKind.DRAINING,
        ClauseKind.ON_TRIAL,
        ClauseKind.BUSY,
    }
