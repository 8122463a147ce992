"""Each reason to wait is one of a small set of words, whatever is in its sentence."""

from __future__ import annotations

import json

import pytest

from nodepool.domain.tasks.clauses import Clause, ClauseKind
from nodepool.domain.tasks.reasons import ReasonCode, no_node
from nodepool.domain.tasks.wait_causes import OTHER, wait_cause, wait_causes


def cause_of_clauses(failed: dict[Clause, int], *, hopeless: bool = False) -> str:
    reason = no_node(sum(failed.values()), failed, hopeless=hopeless)
    return wait_cause(reason.code, reason.parameters_as_json())


def test_what_most_nodes_fail_on_is_the_cause() -> None:
    offline, busy = Clause(ClauseKind.OFFLINE), Clause(ClauseKind.BUSY, "memory_mb")
    assert cause_of_clauses({offline: 1, busy: 3}) == "busy_memory_mb"
    assert cause_of_clauses({offline: 4, busy: 3}) == "offline"
    assert (
        cause_of_clauses({Clause(ClauseKind.TOO_SMALL, "gpu_score"): 1}, hopeless=True)
        == "too_small_gpu_score"
    )


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("", "not_looked"),
        (ReasonCode.NO_NODE_JOINED, "no_node"),
        (ReasonCode.RUNNING_LIMIT_BELOW, "running_limit"),
        (ReasonCode.NODE_LATE, "not_looked"),
        ("of_a_later_version", OTHER),
    ],
)
def test_other_reasons(code: str, cause: str) -> None:
    assert wait_cause(code, "{}") == cause


@pytest.mark.parametrize(
    "parameters",
    ["", "[]", '{"failed": []}', '{"failed": [["made up", "", 1]]}', '{"failed": [["busy", "x\\"} 1", 1]]}'],
)
def test_what_nobody_knows_is_no_word_of_its_own(parameters: str) -> None:
    assert wait_cause(ReasonCode.NO_NODE_NOW, parameters) == OTHER


def test_every_clause_of_placement_has_its_word() -> None:
    words = wait_causes()
    for kind in ClauseKind:
        failed = json.dumps({"failed": [[kind, "tasks", 1]]})
        assert wait_cause(ReasonCode.NO_NODE_NOW, failed) in words - {OTHER}
    assert len(words) < 40
