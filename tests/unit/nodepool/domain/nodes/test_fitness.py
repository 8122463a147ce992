"""Which nodes are left alone for what they refused: how long, for what, and until when."""

from __future__ import annotations

from nodepool.domain.nodes import message_limits
from nodepool.domain.nodes.fitness import (
    ASKED_AGAIN_SECONDS,
    FIRST_BACKOFF_SECONDS,
    FORGOTTEN_SECONDS,
    LONGEST_BACKOFF_SECONDS,
    LONGEST_FOR_TASKS_SECONDS,
    Refusal,
    Refusals,
    after_message,
    after_refusal,
    after_run,
    images_as_json,
    images_from_json,
)
from nodepool.domain.tasks.reason_classes import ReasonClass
from nodepool.domain.tasks.reasons import ReasonCode

NOW = 1_000_000.0


def own(user: int = 1) -> Refusal:
    return Refusal(reason_class=ReasonClass.NODE, code=ReasonCode.DISK_FULL, user_id=user, image="i")


def of_task(user: int) -> Refusal:
    code = ReasonCode.TOO_LITTLE_DISK
    return Refusal(reason_class=ReasonClass.NODE_FOR_TASK, code=code, user_id=user, image="i")


def absent(image: str, user: int = 1) -> Refusal:
    code = ReasonCode.IMAGE_ABSENT
    return Refusal(reason_class=ReasonClass.NODE_FOR_TASK, code=code, user_id=user, image=image)


def test_a_node_that_goes_on_refusing_is_left_alone_twice_as_long_each_time() -> None:
    refusals, now, pauses = Refusals(), NOW, []
    for _ in range(10):
        refusals = after_refusal(refusals, own(), now)
        assert refusals.backs_off(now)
        pauses.append(refusals.backoff_until - now)
        now = refusals.backoff_until + 1
        assert not refusals.backs_off(now)
    assert pauses[:4] == [FIRST_BACKOFF_SECONDS * 2**n for n in range(4)]
    assert pauses[-1] == max(pauses) == LONGEST_BACKOFF_SECONDS


def test_many_tasks_that_are_refused_at_once_are_one_finding() -> None:
    once = after_refusal(Refusals(), own(), NOW)
    assert after_refusal(once, own(2), NOW + 1) == once


def test_a_run_that_came_to_its_end_and_a_long_time_make_up_for_it() -> None:
    once = after_refusal(Refusals(), own(), NOW)
    twice = after_refusal(once, own(), NOW + 60)
    assert after_run(twice) == Refusals()
    later = twice.backoff_until + FORGOTTEN_SECONDS + 1
    assert after_refusal(twice, own(), later).backoff_until - later == FIRST_BACKOFF_SECONDS


def test_no_user_alone_keeps_a_node_without_work_with_tasks_that_it_cannot_run() -> None:
    refusals = Refusals()
    for number in range(100):
        refusals = after_refusal(refusals, of_task(user=7), NOW + number)
        assert not refusals.backs_off(NOW + number)


def test_a_node_that_refuses_everybodys_tasks_for_what_belongs_to_them_is_left_alone_too() -> None:
    refusals = Refusals()
    for user in range(3):
        refusals = after_refusal(refusals, of_task(user + 1), NOW + user)
    assert refusals.backs_off(NOW + 3)


def test_accounts_that_work_together_keep_a_node_without_work_for_a_minute_at_most() -> None:
    refusals, now = Refusals(), NOW
    for number in range(40):
        refusals = after_refusal(refusals, of_task(user=1 + number % 2), now)
        assert refusals.backoff_until - now <= LONGEST_FOR_TASKS_SECONDS
        now = max(now, refusals.backoff_until) + 1
    assert after_refusal(refusals, own(), now).backoff_until - now == LONGEST_BACKOFF_SECONDS


def test_an_image_that_is_not_there_is_remembered_for_a_while_and_says_nothing_of_the_node() -> None:
    refusals = Refusals()
    for number in range(100):
        refusals = after_refusal(refusals, absent(f"image:{number}", user=number), NOW + number)
    assert not refusals.backs_off(NOW + 100)
    assert refusals.in_row == 0
    assert "image:99" in refusals.images_absent(NOW + 100)
    assert len(refusals.absent_images) == 50  # bounded
    assert refusals.images_absent(NOW + 100 + ASKED_AGAIN_SECONDS) == ()
    assert images_from_json(images_as_json(refusals.absent_images)) == refusals.absent_images


def test_what_the_pool_or_the_task_is_to_blame_for_says_nothing_of_the_node() -> None:
    for reason_class in (ReasonClass.POOL, ReasonClass.TASK, ReasonClass.NONE):
        refusal = Refusal(reason_class=reason_class, code=ReasonCode.EVICTED, user_id=1, image="i")
        assert after_refusal(Refusals(), refusal, NOW) == Refusals()


def test_a_clock_that_was_set_back_keeps_no_node_away() -> None:
    refusals = after_refusal(Refusals(), own(), NOW)
    assert not refusals.backs_off(NOW - 3600)


def too_large(message_bytes: int, user: int = 1) -> Refusal:
    return Refusal(
        reason_class=ReasonClass.NODE_FOR_TASK,
        code=ReasonCode.MESSAGE_TOO_LARGE,
        user_id=user,
        image="i",
        message_bytes=message_bytes,
    )


def test_a_message_that_was_too_large_leaves_the_node_its_other_work() -> None:
    refusals = Refusals()
    for user in range(5):
        refusals = after_refusal(refusals, too_large(4 << 20, user), NOW + user)
    assert not refusals.backs_off(NOW + 5)
    assert (refusals.in_row, refusals.largest_message(NOW + 5)) == (0, 4 << 20)


def test_of_two_bounds_the_smaller_counts_and_after_an_hour_neither() -> None:
    once = after_refusal(Refusals(), too_large(5 << 20), NOW)
    assert after_refusal(once, too_large(4 << 20), NOW + 1).largest_message(NOW + 1) == 4 << 20
    assert after_refusal(once, too_large(6 << 20), NOW + 1).largest_message(NOW + 1) == 5 << 20
    assert once.largest_message(NOW + message_limits.FORGOTTEN_SECONDS) == 0
    later = NOW + message_limits.FORGOTTEN_SECONDS
    assert after_refusal(once, too_large(6 << 20), later).largest_message(later) == 6 << 20
    # A clock that was set back keeps nothing from anybody.
    assert once.largest_message(NOW - 1) == 0


def test_a_larger_message_that_was_taken_since_takes_the_bound_away() -> None:
    bound = after_refusal(Refusals(), too_large(4 << 20), NOW)
    assert after_message(bound, 5 << 20, NOW + 1) == Refusals()
    assert after_message(bound, 4 << 20, NOW + 1) == bound
    assert after_message(bound, 5 << 20, NOW - 1) == bound
    assert after_message(Refusals(), 5 << 20, NOW) == Refusals()
    assert after_run(bound).largest_message(NOW) == 4 << 20
