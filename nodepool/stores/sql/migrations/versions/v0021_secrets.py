"""users' secrets, and which of them a task is given"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_WITH_SECRETS = sa.text("secrets <> ''")


def upgrade() -> None:
    op.create_table(
        "user_secrets",
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("value_bytes", sa.Integer(), nullable=False),
        sa.Column("set_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_user_secrets_user_id")),
        sa.PrimaryKeyConstraint("user_id", "name", name=op.f("pk_user_secrets")),
    )
    op.add_column("tasks", sa.Column("secrets", sa.Text(), server_default="", nullable=False))
    op.add_column(
        "tasks",
        sa.Column("secrets_on_low_trust", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.create_index(
        "ix_tasks_secrets",
        "tasks",
        ["owner_id", "state"],
        sqlite_where=_WITH_SECRETS,
        postgresql_where=_WITH_SECRETS,
    )


def refuses_downgrade(connection: sa.Connection) -> str:
    """The version before would run them without their secrets."""
    waiting = "SELECT COUNT(*) FROM tasks WHERE secrets != '' AND finished_at IS NULL"
    count = connection.execute(sa.text(waiting)).scalar_one()
    return f"{count} tasks that have not ended are to be given secrets" if count else ""


def downgrade() -> None:
    op.drop_index("ix_tasks_secrets", "tasks")
    op.drop_column("tasks", "secrets_on_low_trust")
    op.drop_column("tasks", "secrets")
    op.drop_table("user_secrets")
