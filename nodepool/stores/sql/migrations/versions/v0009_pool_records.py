"""facts about the pool as a whole: when its ledger was verified, and that SQL can be written"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    records = op.create_table(
        "pool_records",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("value", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_pool_records")),
    )
    # Several processes write it, so that none of them has to insert it.
    op.bulk_insert(records, [{"name": "write probe", "at": 0.0, "value": ""}])


def downgrade() -> None:
    op.drop_table("pool_records")
