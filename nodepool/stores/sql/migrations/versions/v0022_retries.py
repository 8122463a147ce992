"""tries of a task whose own program failed; tasks and jobs that do another one again"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_WAITS = sa.text("wait_until > 0")


def upgrade() -> None:
    for name in ("retries", "backoff_seconds", "tries_failed"):
        op.add_column("tasks", sa.Column(name, sa.Integer(), server_default="0", nullable=False))
    op.add_column("tasks", sa.Column("retry_on", sa.String(length=160), server_default="", nullable=False))
    op.add_column("tasks", sa.Column("wait_until", sa.Float(), server_default="0", nullable=False))
    op.add_column("tasks", sa.Column("hold_again", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("jobs", sa.Column("array_count", sa.Integer(), server_default="0", nullable=False))
    for table in ("tasks", "jobs"):
        resubmit_of = sa.Column("resubmit_of", sa.String(length=128), server_default="", nullable=False)
        op.add_column(table, resubmit_of)
    op.create_index(
        "ix_tasks_wait_until", "tasks", ["wait_until"], sqlite_where=_WAITS, postgresql_where=_WAITS
    )


def downgrade() -> None:
    op.drop_index("ix_tasks_wait_until", "tasks")
    for table in ("tasks", "jobs"):
        op.drop_column(table, "resubmit_of")
    op.drop_column("jobs", "array_count")
    for name in ("hold_again", "wait_until", "retry_on", "tries_failed", "backoff_seconds", "retries"):
        op.drop_column("tasks", name)
