"""results that are given when they stand, and tasks that do not wait for that"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Of earlier tasks nothing is held back: their owners have seen what they have.
    op.add_column(
        "tasks", sa.Column("take_pending", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column("tasks", sa.Column("held_back_until", sa.Float(), server_default="0", nullable=False))
    op.create_index(
        "ix_tasks_held_back",
        "tasks",
        ["held_back_until"],
        unique=False,
        sqlite_where=sa.text("held_back_until > 0"),
        postgresql_where=sa.text("held_back_until > 0"),
    )


def downgrade() -> None:
    op.drop_index("ix_tasks_held_back", "tasks")
    op.drop_column("tasks", "held_back_until")
    op.drop_column("tasks", "take_pending")
