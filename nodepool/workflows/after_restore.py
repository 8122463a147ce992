"""What a restored database is told before a pool begins on it: what ran at that moment ends, blamelessly.

Whoever ran it may have ended it since, or run it still; nobody can know, and so it is placed again. An
attempt that its node still runs is refused and killed like any that was given away. The restore is kept as
an act of the host: whoever asks why something is gone finds it there.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from nodepool.domain.backups.manifest import Manifest
from nodepool.domain.ends.attempt_end import End
from nodepool.domain.errors import StaleAttemptError
from nodepool.domain.tasks.reasons import ReasonCode, because
from nodepool.domain.tasks.states import Outcome
from nodepool.settings import Settings
from nodepool.stores.sql import admin as admin_store, restores, tasks as task_store
from nodepool.stores.sql.database import Database
from nodepool.workflows.attempt_end import end_in_sql

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EndedRuns:
    attempts: int


def settle(
    database: Database, settings: Settings, manifest: Manifest, now: float, *, end_sessions: bool
) -> EndedRuns:
    """`now` is Unix time, not before anything in the backup. `end_sessions`: every token ends.

    Raises UnavailableError; told again it does what is left.
    """
    end = End(outcome=Outcome.LOST, exit_code=None, reason=because(ReasonCode.RESTORED), blameless=True)
    ended = 0
    for row in database.read(task_store.live_attempts):
        try:
            database.write(
                lambda c: end_in_sql(c, row.id, row.node_id, row.owner_id, end, settings=settings, now=now)  # noqa: B023
            )
            ended += 1
        except StaleAttemptError as error:
            log.warning("attempt %s is left to the sweep: %s", row.id, error)
    if end_sessions:
        database.write(lambda c: restores.end_sessions(c, now))
    detail = {
        "backup_made_at": manifest.made_at,
        "runs_ended": ended,
        "ledger_entries": manifest.ledger_entries,
    }
    database.write(lambda c: admin_store.record(c, restores.HOST, restores.RESTORE, manifest.id, detail, now))
    return EndedRuns(ended)
