"""an id of the pool, by which its broker is known"""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_RECORDS = sa.table("pool_records", sa.column("name"), sa.column("at"), sa.column("value"))
_NAME = "pool id"


def upgrade() -> None:
    there = sa.select(_RECORDS.c.name).where(_RECORDS.c.name == _NAME)
    if op.get_bind().execute(there).first() is None:
        op.bulk_insert(_RECORDS, [{"name": _NAME, "at": 0.0, "value": secrets.token_hex(16)}])


def downgrade() -> None:
    """It stays: an earlier version does not look at it, and the broker goes on being this pool's."""
