"""tasks that never run twice at one moment, and nodes that are heard while Redis is away"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Nobody has said of an earlier task that it is exclusive.
    op.add_column(
        "tasks", sa.Column("exclusive", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column("nodes", sa.Column("heard_at", sa.Float(), server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_column("nodes", "heard_at")
    op.drop_column("tasks", "exclusive")
