"""The tables that the fault program prints."""

from __future__ import annotations

import json

from tests.chaos.report import Outcome, Row, as_json, as_markdown, from_json, worst_of


def outcome(seed: int, *rows: Row, **found: list[str]) -> Outcome:
    return Outcome(
        what="HiveMind", seed=seed, database="sqlite", tasks=100, attempts=104, seconds=180.0,
        reference_pace=2.0, reference_wait=0.4, rows=rows, violations=found,
    )  # fmt: skip


def test_the_worst_of_several_runs_is_told_of_each_kind() -> None:
    one = outcome(1, Row("kill broker", 1, 2.0, 0.9, 3), Row("flushall broker", 1, 0.5, 1.0, 0))
    two = outcome(2, Row("kill broker", 2, 4.5, None, 1))
    assert worst_of([one, two]) == (
        Row("flushall broker", 1, 0.5, 1.0, 0),
        Row("kill broker", 3, 4.5, 0.9, 4),
    )
    assert one.rows[0] == Row("kill broker", 1, 2.0, 0.9, 3)


def test_violations_are_counted_and_said() -> None:
    bad = outcome(4, **{"nothing lost": ["t7 was accepted and has not ended: QUEUED"]})
    table = as_markdown([outcome(3, Row("kill broker", 1, 2.0, 0.95, 3)), bad])
    assert "| kill broker | 1 | 2.0 | 95% | 3 |" in table
    assert "| nothing lost | 1 |" in table
    assert "| nothing doubled | 0 |" in table
    assert "- seed 4: nothing lost: t7 was accepted" in table
    many = outcome(5, **{"nothing lost": [f"t{number}" for number in range(9)]})
    assert as_markdown([many]).endswith("t4\n- seed 5: nothing lost: and 4 more")
    assert not bad.is_clean
    assert outcome(3, **{"nothing lost": []}).is_clean
    assert from_json(as_json([bad])) == [bad]
    assert json.loads(as_json([bad]))[0]["violations"] == bad.violations
