"""who is told of the end of tasks and jobs, and what was sent of it"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

_WAITING, _CODES = sa.text("state = 'waiting'"), sa.text("kind = 'code'")
_ENDED = sa.text("ended_at IS NOT NULL")
_TASKS = sa.text("notify <> '' AND notified_at = 0 AND finished_at IS NOT NULL")
_JOBS = sa.text("notify <> '' AND notified_at = 0 AND ended_at IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "notify_targets",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("receiver", sa.String(length=300), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_before", sa.LargeBinary(), nullable=True),
        sa.Column("before_until", sa.Float(), server_default="0", nullable=False),
        sa.Column("set_at", sa.Float(), nullable=False),
        sa.Column("confirmed_at", sa.Float(), nullable=True),
        sa.Column("wrong_codes", sa.Integer(), server_default="0", nullable=False),
        sa.Column("told_at", sa.Float(), nullable=True),
        sa.Column("told_state", sa.String(length=16), server_default="", nullable=False),
        sa.Column("told_words", sa.String(length=300), server_default="", nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_notify_targets_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notify_targets")),
    )
    op.create_index("uq_notify_targets_user_name", "notify_targets", ["user_id", "name"], unique=True)
    _create_notifications()
    for table, where, column in (("tasks", _TASKS, "finished_at"), ("jobs", _JOBS, "ended_at")):
        op.add_column(table, sa.Column("notify", sa.Text(), server_default="", nullable=False))
        op.add_column(table, sa.Column("notified_at", sa.Float(), server_default="0", nullable=False))
        op.create_index(f"ix_{table}_notify", table, [column], sqlite_where=where, postgresql_where=where)


def _create_notifications() -> None:
    op.create_table(
        "notifications",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("target_id", sa.String(length=32), nullable=False),
        sa.Column("target", sa.String(length=64), nullable=False),
        sa.Column("receiver", sa.String(length=300), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("subject_id", sa.String(length=128), server_default="", nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("first_due_at", sa.Float(), nullable=False),
        sa.Column("due_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.Column("words", sa.String(length=300), server_default="", nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_notifications_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notifications")),
    )
    for name, columns, where in (
        ("due", ["due_at"], _WAITING),
        ("codes", ["receiver", "created_at"], _CODES),
        ("ended", ["ended_at"], _ENDED),
    ):
        op.create_index(
            f"ix_notifications_{name}", "notifications", columns, sqlite_where=where, postgresql_where=where
        )
    op.create_index("ix_notifications_user", "notifications", ["user_id", "first_due_at"])
    op.create_index("ix_notifications_subject", "notifications", ["user_id", "subject_id"])


def downgrade() -> None:
    for table in ("jobs", "tasks"):
        op.drop_index(f"ix_{table}_notify", table)
        op.drop_column(table, "notified_at")
        op.drop_column(table, "notify")
    op.drop_table("notifications")
    op.drop_table("notify_targets")
