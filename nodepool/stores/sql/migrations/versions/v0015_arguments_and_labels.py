"""what a task's entry script is given, what people call tasks, and what agents can do for a run"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_OF_TASKS = (
    ("arguments", sa.Text()),
    ("environment", sa.Text()),
    ("capabilities", sa.Text()),
    ("name", sa.String(length=128)),
    ("labels", sa.Text()),
)


def upgrade() -> None:
    op.add_column("nodes", sa.Column("capabilities", sa.Text(), server_default="", nullable=False))
    for name, kind in _OF_TASKS:
        op.add_column("tasks", sa.Column(name, kind, server_default="", nullable=False))
    op.create_index(
        "ix_tasks_owner_name",
        "tasks",
        ["owner_id", "name", "created_at"],
        sqlite_where=sa.text("name != ''"),
        postgresql_where=sa.text("name != ''"),
    )
    op.create_table(
        "task_labels",
        sa.Column("task_id", sa.String(length=128), nullable=False),
        sa.Column("key", sa.String(length=63), nullable=False),
        sa.Column("value", sa.String(length=255), nullable=False),
        sa.Column("owner_id", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_task_labels_task_id")),
        sa.PrimaryKeyConstraint("task_id", "key", name=op.f("pk_task_labels")),
    )
    op.create_index(
        "ix_task_labels_found", "task_labels", ["owner_id", "key", "value", "created_at", "task_id"]
    )


def refuses_downgrade(connection: sa.Connection) -> str:
    """The version before would run them without what they are given."""
    waiting = "SELECT COUNT(*) FROM tasks WHERE capabilities != '' AND finished_at IS NULL"
    count = connection.execute(sa.text(waiting)).scalar_one()
    return f"{count} tasks that have not ended have arguments or environment variables" if count else ""


def downgrade() -> None:
    op.drop_index("ix_task_labels_found", "task_labels")
    op.drop_table("task_labels")
    op.drop_index("ix_tasks_owner_name", "tasks")
    for name, _ in reversed(_OF_TASKS):
        op.drop_column("tasks", name)
    op.drop_column("nodes", "capabilities")
