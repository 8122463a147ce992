"""Times as people write them: how long, and since when."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from hivemind.cli.moments import duration_seconds, moment

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), ("3d", 259_200), ("1w", 604_800), (" 2h ", 7200)],
)
def test_how_long(text: str, seconds: float) -> None:
    assert duration_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-5m", "5 m", "1e9", "nan", "inf", "10mm", "٣h", "9999999999"])
def test_what_says_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="is no time such as"):
        duration_seconds(text)


def test_since_when() -> None:
    assert moment("2h", NOW) == NOW - 7200
    assert moment("2026-11-30T12:00Z", NOW) == NOW
    assert moment("2026-11-30 20:00:00+08:00", NOW) == NOW
    assert moment("2026-11-30T12:00:00.5+0000", NOW) == NOW + 0.5
    # Without a zone it is this machine's.
    assert moment("2026-11-30", NOW) == datetime(2026, 11, 30).timestamp()  # noqa: DTZ001
    assert moment("2026-11-30T07:30", NOW) == datetime(2026, 11, 30, 7, 30).timestamp()  # noqa: DTZ001


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("yesterday", "is no time such as"),
        ("20261130", "is no time such as"),
        ("2026", "is no time such as"),
        ("2026-11-31", "is not in the calendar"),
        ("2026-11-30T25:00", "is not in the calendar"),
        ("2026-11-30T12:00+99:00", "is not in the calendar"),
        ("0001-01-01", "before 1970|not in the calendar"),
        ("99999d", "before 1970"),
        ("", "is no time such as"),
    ],
)
def test_what_is_no_moment(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        moment(text, NOW)
