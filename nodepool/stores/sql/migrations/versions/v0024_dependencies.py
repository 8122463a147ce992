"""tasks that wait for other tasks, and steps of flows"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "dependencies",
        sa.Column("dependent_id", sa.String(length=128), primary_key=True),
        sa.Column("dependent_step", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("needed_id", sa.String(length=128), primary_key=True),
        sa.Column("needed_step", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("on_any_end", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.create_table(
        "job_steps",
        sa.Column("job_id", sa.String(length=128), sa.ForeignKey("jobs.id"), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("is_array", sa.Boolean(), nullable=False),
        sa.Column("tasks", sa.Integer(), nullable=False),
        sa.Column("first_index", sa.Integer(), nullable=False),
        sa.Column("last_index", sa.Integer(), nullable=False),
        sa.Column("needs", sa.Text(), server_default="", nullable=False),
        sa.Column("needs_any", sa.Text(), server_default="", nullable=False),
        sa.Column("inputs", sa.Text(), server_default="", nullable=False),
    )
    op.create_index("ix_dependencies_needed", "dependencies", ["needed_id"])
    op.add_column("tasks", sa.Column("after", sa.Text(), server_default="", nullable=False))
    op.add_column("tasks", sa.Column("after_any", sa.Text(), server_default="", nullable=False))


def downgrade() -> None:
    # What still waits would wait for ever: nobody knows of it any more.
    op.execute(
        "UPDATE tasks SET state = 'STOPPED', reason = 'stopped: this version knows no tasks that wait for "
        "others', reason_code = 'told', finished_at = updated_at WHERE state = 'WAITING'"
    )
    op.drop_column("tasks", "after_any")
    op.drop_column("tasks", "after")
    op.drop_index("ix_dependencies_needed", "dependencies")
    op.drop_table("dependencies")
    op.drop_table("job_steps")
