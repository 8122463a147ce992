"""The count of a user's unfinished tasks is believed for a moment, and never used to refuse anybody."""

from __future__ import annotations

from gateway.caches.unfinished_counts import UnfinishedCounts


class Counting:
    def __init__(self, tasks: int) -> None:
        self.tasks = tasks
        self.asked = 0

    def __call__(self) -> int:
        self.asked += 1
        return self.tasks


def test_below_the_limit_sql_is_asked_once_a_moment() -> None:
    now = [0.0]
    counts, sql = UnfinishedCounts(lambda: now[0]), Counting(1)
    assert not counts.reaches(7, 10, sql)
    assert not counts.reaches(7, 10, sql)
    assert sql.asked == 1
    now[0] = 60.0
    assert not counts.reaches(7, 10, sql)
    assert sql.asked == 2


def test_accepted_tasks_count_before_sql_is_asked_again() -> None:
    counts, sql = UnfinishedCounts(lambda: 0.0), Counting(1)
    assert not counts.reaches(7, 3, sql)
    counts.accepted(7)
    counts.accepted(7)
    sql.tasks = 3
    assert counts.reaches(7, 3, sql)


def test_at_the_limit_sql_has_the_last_word() -> None:
    counts, sql = UnfinishedCounts(lambda: 0.0), Counting(3)
    assert counts.reaches(7, 3, sql)
    sql.tasks = 2
    assert not counts.reaches(7, 3, sql)


def test_users_are_counted_apart() -> None:
    counts = UnfinishedCounts(lambda: 0.0)
    assert counts.reaches(7, 3, Counting(3))
    assert not counts.reaches(8, 3, Counting(0))
