"""what the tasks of an account keep in the file store"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_ENDED = "finished_at IS NOT NULL"
_RAN = (
    "(started_at IS NOT NULL OR EXISTS "
    "(SELECT 1 FROM attempts WHERE attempts.task_id = tasks.id AND attempts.started_at IS NOT NULL))"
)
_PACKAGES = (
    "SELECT owner_id, package_sha256, MAX(package_bytes) AS bytes FROM tasks "
    "WHERE kind = 'user' GROUP BY owner_id, package_sha256"
)
_RESULTS = "SELECT owner_id, SUM(stored_bytes) AS bytes FROM tasks GROUP BY owner_id"


def upgrade() -> None:
    op.create_table(
        "storage_accounts",
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"]),
        sa.PrimaryKeyConstraint("user_id"),
    )
    op.add_column(
        "tasks", sa.Column("keeps_package", sa.Boolean(), server_default=sa.text("true"), nullable=False)
    )
    op.add_column("tasks", sa.Column("stored_bytes", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column(
        "tasks", sa.Column("storage_due", sa.Boolean(), server_default=sa.text("true"), nullable=False)
    )
    # Those that never ran, and runs of others, stay due: the sweep gives up what they need not keep.
    op.execute(
        f"UPDATE tasks SET storage_due = false, "  # noqa: S608 - constants
        f"stored_bytes = CASE WHEN result_attempt <> '' THEN result_bytes ELSE 0 END "
        f"WHERE kind = 'user' AND {_ENDED} AND {_RAN}"
    )
    op.execute("INSERT INTO storage_accounts (user_id, bytes) SELECT id, 0 FROM users")
    for amounts in (_PACKAGES, _RESULTS):
        op.execute(
            "UPDATE storage_accounts SET bytes = bytes + COALESCE("  # noqa: S608 - constants
            f"(SELECT SUM(kept.bytes) FROM ({amounts}) AS kept WHERE kept.owner_id = user_id), 0)"
        )
    op.create_index(
        "ix_tasks_kept_package",
        "tasks",
        ["package_sha256", "owner_id"],
        unique=False,
        sqlite_where=sa.text("keeps_package"),
        postgresql_where=sa.text("keeps_package"),
    )
    op.create_index(
        "ix_tasks_storage_due",
        "tasks",
        ["finished_at"],
        unique=False,
        sqlite_where=sa.text("storage_due AND finished_at IS NOT NULL"),
        postgresql_where=sa.text("storage_due AND finished_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_tasks_storage_due", table_name="tasks")
    op.drop_index("ix_tasks_kept_package", table_name="tasks")
    for name in ("storage_due", "stored_bytes", "keeps_package"):
        op.drop_column("tasks", name)
    op.drop_table("storage_accounts")
