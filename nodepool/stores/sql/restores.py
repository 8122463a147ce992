"""That the database was restored from a backup, and when: an act of the pool's own host.

Whoever was told of something that came after the backup is told by it why that is gone. Tokens that were
issued after the backup must not fit accounts that are made after the restore with the same number and name.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from sqlalchemy import Connection, select, update

from nodepool.stores.sql.tables import admin_acts, users

HOST = "(host)"  # no user can be called so
RESTORE = "restore"
_ASKED_FOR_SECONDS = 30 * 86400.0
# Generations of tokens count changes of a password from here, in seconds: they fit into 32 bits.
_EPOCH = 1_577_836_800


@dataclass(frozen=True, slots=True)
class Restored:
    """Unix times: when the pool was restored, and of when the backup is. What came between is gone."""

    restored_at: float
    backup_made_at: float

    def lost_after(self, now: float) -> str | None:
        """The moment of the backup, for people, as long as somebody may ask for what came after it."""
        if now - self.restored_at > _ASKED_FOR_SECONDS:
            return None
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.backup_made_at))


def last(connection: Connection) -> Restored | None:
    """The newest restore; None where there was none."""
    query = (
        select(admin_acts.c.created_at, admin_acts.c.detail)
        .where(admin_acts.c.admin == HOST, admin_acts.c.action == RESTORE)
        .order_by(admin_acts.c.seq.desc())
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return Restored(row.created_at, float(json.loads(row.detail)["backup_made_at"]))


def first_generation(connection: Connection) -> int:
    """Of a new account's tokens."""
    restored = last(connection)
    return 0 if restored is None else _generation(restored.restored_at)


def end_sessions(connection: Connection, now: float) -> None:
    """Every token that was ever issued has ended."""
    connection.execute(update(users).values(token_generation=_generation(now)))


def _generation(at: float) -> int:
    return max(1, int(at) - _EPOCH)
