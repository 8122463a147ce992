"""How long results, outputs and records stay: what the settings mean together."""

from __future__ import annotations

import pytest

from nodepool.domain.tasks.retention import DAY_SECONDS, Retention, days_told

NOW = 1000 * DAY_SECONDS


def _days(before: float | None) -> float | None:
    return None if before is None else (NOW - before) / DAY_SECONDS


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ((30, 30, 90), (30, 30, 90)),
        ((30, 60, 90), (30, 60, 90)),
        ((30, 1, 90), (30, 30, 90)),  # the output is in the result
        ((0, 0, 0), (None, None, None)),
        ((0, 5, 0), (None, None, None)),
        ((5, 0, 0), (5, None, None)),
        ((0, 0, 7), (7, 7, 7)),  # nothing outlives its task
        ((30, 60, 10), (10, 10, 10)),
    ],
)
def test_nothing_outlives_its_task_nor_a_result_its_output(
    settings: tuple[float, float, float], kept: tuple[float | None, ...]
) -> None:
    rules = Retention(*settings)
    found = rules.results_before(NOW), rules.outputs_before(NOW), rules.tasks_before(NOW)
    assert tuple(map(_days, found)) == kept
    assert rules.keeps_output_longer == (kept[0] is not None and kept[0] != kept[1])
    until = rules.result_until(NOW)
    assert until == (0.0 if kept[0] is None else NOW + kept[0] * DAY_SECONDS)


def test_days_are_told_as_people_say_them() -> None:
    assert [days_told(days * DAY_SECONDS) for days in (1, 30, 0.5, 1.1, 0)] == [
        "1 day", "30 days", "0.5 days", "1.1 days", "0 days",
    ]  # fmt: skip
    assert (Retention(1, 1, 0).task_told, Retention(1, 1, 90).task_told) == ("for ever", "90 days")
