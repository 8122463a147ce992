"""What is left of a job that was never wholly accepted: taken over from whoever began it, and dropped.

In short transactions, by whoever finds it: the gateway that failed or is asked again, or the sweep.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from nodepool.stores.sql import job_intake, storage_accounting
from nodepool.stores.sql.database import Database

_HOLDER_BYTES = 12
# Tasks of one transaction.
_AT_ONCE = 500


def new_holder() -> str:
    """Whoever has the job under this name may put tasks into it and drop it."""
    return secrets.token_hex(_HOLDER_BYTES)


def take_over(database: Database, clock: Callable[[], float], job_id: str) -> str:
    """The holder under which it can be dropped; "" where somebody goes on with it, or it is gone."""
    holder, now = new_holder(), clock()
    before = now - job_intake.PATIENCE_SECONDS
    taken = database.write(lambda c: job_intake.take_over(c, job_id, holder, now, before=before))
    return holder if taken else ""


def drop_some(
    database: Database, clock: Callable[[], float], job_id: str, holder: str, owner_id: int
) -> bool:
    """Some of its tasks; in the end the job, and what it counted to its owner's storage. False: that was all.

    Raises UnavailableError.
    """
    now = clock()
    if database.write(lambda c: job_intake.drop_some(c, job_id, holder, _AT_ONCE, now)):
        return True
    database.write(lambda c: storage_accounting.recount(c, owner_id))
    return False
