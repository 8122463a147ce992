"""priority, trust and region wishes of tasks; history and peers of nodes; records of attempts"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("history_good", "history_bad", "history_speed_sum", "history_speed_weight", "history_at"):
        op.add_column("nodes", sa.Column(name, sa.Float(), server_default="0", nullable=False))
    op.add_column("nodes", sa.Column("peer_address", sa.String(length=64), server_default="", nullable=False))
    op.add_column("nodes", sa.Column("bad_streak", sa.Integer(), server_default="0", nullable=False))
    op.add_column("tasks", sa.Column("priority", sa.Integer(), server_default="5", nullable=False))
    op.add_column("tasks", sa.Column("min_trust", sa.String(length=16), server_default="", nullable=False))
    op.add_column(
        "tasks", sa.Column("location_mode", sa.String(length=16), server_default="strict", nullable=False)
    )
    op.add_column("tasks", sa.Column("queued_at", sa.Float(), server_default="0", nullable=False))
    op.execute("UPDATE tasks SET queued_at = created_at")
    op.create_index(
        "ix_tasks_package_finished",
        "tasks",
        ["owner_id", "package_sha256", "finished_at"],
        unique=False,
        sqlite_where=sa.text("finished_at IS NOT NULL"),
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.add_column("attempts", sa.Column("pushed_at", sa.Float(), server_default="0", nullable=False))
    op.add_column("attempts", sa.Column("queue_seconds", sa.Float(), server_default="0", nullable=False))
    op.add_column("attempts", sa.Column("bytes_in", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("attempts", sa.Column("bytes_out", sa.BigInteger(), server_default="0", nullable=False))
    op.create_index("ix_attempts_created", "attempts", ["created_at"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_attempts_created", table_name="attempts")
    for name in ("bytes_out", "bytes_in", "queue_seconds", "pushed_at"):
        op.drop_column("attempts", name)
    op.drop_index("ix_tasks_package_finished", table_name="tasks")
    for name in ("queued_at", "location_mode", "min_trust", "priority"):
        op.drop_column("tasks", name)
    for name in (
        "bad_streak",
        "peer_address",
        "history_at",
        "history_speed_weight",
        "history_speed_sum",
        "history_bad",
        "history_good",
    ):
        op.drop_column("nodes", name)
