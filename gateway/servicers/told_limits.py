"""Tells of calls that were refused because somebody has as much as one may have."""

from __future__ import annotations

from gateway.auth.access import LOGIN
from gateway.auth.callers import current_client, identity_of_call
from nodepool.domain.errors import RateLimitedError, StorageBoundError
from nodepool.domain.limit_names import LimitName
from nodepool.events.catalogue import LimitHit
from nodepool.events.telling import tell


def tell_limit(method: str, error: Exception) -> None:
    """Who has as much as one may have. Of a login that is refused for it there is a line already."""
    if not isinstance(error, RateLimitedError | StorageBoundError):
        return
    if error.limit is LimitName.WRONG_PASSWORDS and method == LOGIN:
        return
    identity = identity_of_call.get()
    hit = LimitHit(
        limit=error.limit,
        user=identity.username if identity is not None else "",
        address=current_client().counted,
        method=method.rpartition("/")[2],
    )
    tell(hit)
