"""Exit codes of ended tasks, as a shell has them: of one, and the worst of several."""

from __future__ import annotations

import pytest

from nodepool.domain.tasks.exit_codes import shell_code, worst
from nodepool.domain.tasks.states import TaskState

OK, FAILED, STOPPED = (TaskState.SUCCEEDED, 0), TaskState.FAILED, (TaskState.STOPPED, 130)


@pytest.mark.parametrize(
    ("state", "code", "said"),
    [
        (TaskState.SUCCEEDED, 0, 0),
        (FAILED, 3, 3),
        (FAILED, -9, 137),
        (FAILED, None, 1),
        (FAILED, 0, 1),
        (FAILED, 256, 1),
        (TaskState.STOPPED, 0, 130),
        (TaskState.STOPPED, None, 130),
    ],
)
def test_a_shell_would_say(state: TaskState, code: int | None, said: int) -> None:
    assert shell_code(state, code) == said


def test_the_worst_is_the_largest_failure_then_a_stop() -> None:
    assert worst([]) == 0
    assert worst([OK, OK]) == 0
    assert worst([OK, STOPPED]) == 130
    assert worst([(FAILED, 3), STOPPED, OK]) == 3
    assert worst([(FAILED, 3), (FAILED, 137), (FAILED, 1)]) == 137
