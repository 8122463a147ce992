"""What is not there and what is another's is one answer: nobody learns from a refusal whether an id exists.

Exceptions are what the wire contract wants told: an upload with a task id that is taken, and the
registration of a node id that is another's.
"""

from __future__ import annotations

from nodepool.domain.errors import NotFoundError

_SHOWN = 150


def no_task(task_id: str, *, lost: str | None = None) -> NotFoundError:
    """For whoever asks for a task of their own. `lost`: since when tasks of a pool that was restored lately
    are gone."""
    text = f"there is no task {task_id[:_SHOWN]!r} of yours"
    if lost:
        text += f"; the pool was restored from a backup, and what was submitted after {lost} is gone"
    return NotFoundError(text)


def removed_task(task_id: str, kept: str) -> NotFoundError:
    """For whoever it was. `kept`: how long tasks are kept here after their end."""
    shown = task_id[:_SHOWN]
    return NotFoundError(
        f"task {shown!r} of yours is not kept any more: it was deleted, or it ended longer ago than tasks "
        f"are kept here ({kept}); what was paid for it is in your ledger: hivemind ledger --task {shown}"
    )


def no_job(job_id: str) -> NotFoundError:
    """For whoever asks for a job of their own."""
    return NotFoundError(f"there is no job {job_id[:_SHOWN]!r} of yours")


def no_task_or_job(needed_id: str) -> NotFoundError:
    """For whoever names what a task of their own comes after."""
    return NotFoundError(f"there is no task or job {needed_id[:_SHOWN]!r} of yours to come after")


def no_node(node_id: str) -> NotFoundError:
    """For whoever asks for a node of their own."""
    return NotFoundError(f"there is no node {node_id[:_SHOWN]!r} of yours")


def no_attempt(attempt_id: str, node_id: str) -> NotFoundError:
    """For a node that speaks for an attempt."""
    return NotFoundError(f"node {node_id[:_SHOWN]!r} of yours has no attempt {attempt_id[:_SHOWN]!r}")


def no_task_on_your_nodes(task_id: str) -> NotFoundError:
    """For a worker that speaks for whatever task it has."""
    return NotFoundError(f"no node of yours has task {task_id[:_SHOWN]!r}")
