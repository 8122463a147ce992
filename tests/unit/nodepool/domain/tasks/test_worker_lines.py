"""What existing workers send as lines becomes output: whole, with its time, without telemetry."""

from __future__ import annotations

import pytest

from nodepool.domain.tasks.worker_lines import after_time, whole_lines, without_telemetry


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ('RESOURCE_USAGE: {"cpu": 12}', ""),
        ('RESOURCE_USAGE: {"cpu": 12}\n', ""),
        ('a\nRESOURCE_USAGE: {"cpu": 12}\r\nb', "a\nb"),
        ("  RESOURCE_USAGE:{}\nRESOURCE_USAGE: {'x': {}}\n", ""),
        ("the word RESOURCE_USAGE: {} in a line", "the word RESOURCE_USAGE: {} in a line"),
        ("RESOURCE_USAGE: none", "RESOURCE_USAGE: none"),
        ("", ""),
    ],
)
def test_lines_of_telemetry_are_no_output(sent: str, kept: str) -> None:
    assert without_telemetry(sent) == kept


def test_a_last_line_gets_its_end() -> None:
    assert [whole_lines(text) for text in ("", "a", "a\n", "a\nb")] == ["", "a\n", "a\n", "a\nb\n"]


def test_each_line_comes_after_its_time_where_there_is_one() -> None:
    assert after_time("a\nb\n", "12:00") == "12:00 a\n12:00 b\n"
    assert after_time("a\n", "") == "a\n"
    assert after_time("", "12:00") == ""
