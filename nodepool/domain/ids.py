"""Which ids are allowed, and how derived names are spelled.

Ids become file names, Redis keys, ACL patterns and queue names, so no separator, blank or glob
character may be in them.
"""

from __future__ import annotations

import hashlib
import re

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.safe_text import is_plain

_TASK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MOVEMENT_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")
# Between a task and the number of one of its runs; nobody can choose an id with it.
_RUN_MARK = "~"
MAX_PARENT_ID = 126  # of a task that gets runs, so that there is room for their numbers
MAX_JOB_ID = 116  # so that there is room for the indices of its tasks
# Of an id that somebody names by its beginning: with fewer nearly everything would be meant.
LEAST_BEGINNING = 4
_NODE_PART = r"[\w](?:[\w.@+-]{0,63})"
_NODE_ID = re.compile(rf"{_NODE_PART}(?:/{_NODE_PART})?")


def check_task_id(task_id: str) -> str:
    if not _TASK_ID.fullmatch(task_id):
        raise InvalidInputError(
            "task_id must be 1 to 128 letters, digits, '.', '_' or '-', and begin with a letter or digit"
        )
    return task_id


def check_job_id(job_id: str) -> str:
    if not _TASK_ID.fullmatch(job_id) or len(job_id) > MAX_JOB_ID:
        raise InvalidInputError(
            f"job_id must be 1 to {MAX_JOB_ID} letters, digits, '.', '_' or '-', and begin with a letter or "
            "digit"
        )
    return job_id


def check_beginning(name: str) -> str:
    """What somebody writes for a task's or a job's id: all of it, or its beginning."""
    if not _TASK_ID.fullmatch(name):
        shown = name[:40].encode("unicode_escape").decode()
        raise InvalidInputError(
            f"{shown!r} is no id and no beginning of one: they have 1 to 128 letters, digits, '.', '_' or "
            "'-', and begin with a letter or digit"
        )
    return name


def check_node_id(node_id: str) -> str:
    if not _NODE_ID.fullmatch(node_id) or not is_plain(node_id):
        raise InvalidInputError(
            "node_id must be NAME or USER/NAME, each of at most 64 letters, digits, '.', '_', '@', '+' or '-'"
        )
    return node_id


def check_movement_id(movement_id: str, field: str) -> str:
    """What a client names a transfer or a mint by, so that the same sent again is the same."""
    if not _MOVEMENT_ID.fullmatch(movement_id):
        raise InvalidInputError(f"{field} must be 1 to 100 letters, digits, '.', '_', ':' or '-'")
    return movement_id


def attempt_id(token: str) -> str:
    """The fencing token of an attempt, out of a random token.

    Its node sees it, so it says nothing: not of which task it is, nor whether that is somebody's, one of
    several runs, a check or a probe. Only SQL knows. The end is there because agents take an id apart at
    its colon for names of files.
    """
    return f"{token}:1"


def run_id(task_id: str, number: int) -> str:
    """The id of one of several runs of a task, which is a task of its own; the first has number 1."""
    return f"{task_id}{_RUN_MARK}{number}"


def parent_of(task_id: str) -> str:
    """The task that this is one run of; empty for any other task."""
    parent, mark, _ = task_id.rpartition(_RUN_MARK)
    return parent if mark else ""


def shown_task(task_id: str) -> str:
    """The id under which its owner and its nodes know it."""
    return parent_of(task_id) or task_id


def run_number(task_id: str) -> int:
    """0 for a task that is no run of another."""
    return int(task_id.rpartition(_RUN_MARK)[2]) if parent_of(task_id) else 0


BROKER_USER_PREFIX = "agent-"


def broker_user(node_id: str) -> str:
    """The agent's broker user: ACL names allow no blanks, and a hash has none whatever the node id is."""
    return BROKER_USER_PREFIX + hashlib.sha256(node_id.encode()).hexdigest()[:24]
