"""What a shell would say of ended tasks: of one, and of several together. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from nodepool.domain.tasks.states import TaskState

_SIGNAL_BASE = 128
#: Of a task that was stopped, as of a program that Ctrl-C ended.
STOPPED = _SIGNAL_BASE + 2
#: Of a task that failed without an exit code of its own.
FAILED = 1


def shell_code(state: TaskState, exit_code: int | None) -> int:
    """Its program's own code; 128+n for signal n, which is told as -n."""
    if state is TaskState.STOPPED:
        return STOPPED
    if state is TaskState.SUCCEEDED:
        return 0
    if not exit_code:
        return FAILED
    return _SIGNAL_BASE - exit_code if exit_code < 0 else exit_code & 0xFF or FAILED


def worst(ends: Iterable[tuple[TaskState, int]]) -> int:
    """Of states with their codes for a shell: the largest of those that failed; where none did, that of a
    stop; where none was stopped either, 0."""
    codes = dict.fromkeys(ends)
    failed = [code for state, code in codes if state is TaskState.FAILED]
    if failed:
        return max(failed)
    return STOPPED if any(state is TaskState.STOPPED for state, _ in codes) else 0
