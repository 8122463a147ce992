"""What the credit of an owner opens to new tasks, and how many unfinished ones there may be."""

from __future__ import annotations

from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from nodepool.domain.errors import PermissionDeniedError, RateLimitedError
from nodepool.domain.limit_names import LimitName
from nodepool.domain.tasks.new_task import RequestedTask
from nodepool.domain.trust import access_limits
from nodepool.domain.trust.tiers import SCORE_OF, Tier, opens, task_tier
from nodepool.stores.sql import tasks as task_store


def check_access(columns: RequestedTask, score: int) -> None:
    """Raises PermissionDeniedError for what the owner's credit does not open."""
    access_limits.check_access(columns, score)
    # A task that asks for more trust would wait for ever.
    min_trust = columns["min_trust"]
    if min_trust and not opens(task_tier(score), Tier(min_trust)):
        raise PermissionDeniedError(
            f"nodes of {min_trust} trust take a credit score of {SCORE_OF[Tier(min_trust)]} or more, "
            f"and yours is {score}: ask for min_trust {task_tier(score)} or none"
        )


def check_room(gateway: Gateway, owner: CallerIdentity, score: int, *, more: int = 1) -> None:
    """Raises RateLimitedError where so many more tasks are more than the owner may have unfinished."""
    opened = access_limits.limits_of(score).unfinished_tasks
    limit = min(gateway.settings.max_waiting_tasks_per_user, opened)

    def count() -> int:
        return gateway.database.read(lambda c: task_store.count_unfinished(c, owner.user_id))

    if not gateway.unfinished.reaches(owner.user_id, max(0, limit - more + 1), count):
        return
    if more > 1:
        raise RateLimitedError(
            f"you may have {limit} unfinished tasks here, and {more} more would be too many: send fewer, or "
            "wait until some have ended",
            limit=LimitName.UNFINISHED_TASKS,
        )
    if limit == opened:
        raise RateLimitedError(
            access_limits.unfinished_message(limit, score), limit=LimitName.UNFINISHED_TASKS
        )
    raise RateLimitedError(
        f"you have {limit} unfinished tasks, as many as this pool allows; wait until some have ended",
        limit=LimitName.UNFINISHED_TASKS,
    )
