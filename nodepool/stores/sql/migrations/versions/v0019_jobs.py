"""jobs: tasks that belong together"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

_OF_A_JOB, _OPEN = sa.text("job_id != ''"), sa.text("ended_at IS NULL")


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=128), primary_key=True),
        sa.Column("owner_id", sa.Integer(), sa.ForeignKey("users.id"), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=128), server_default="", nullable=False),
        sa.Column("labels", sa.Text(), server_default="", nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("max_cpt", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("accepted_at", sa.Float(), nullable=True),
        sa.Column("holder", sa.String(length=32), server_default="", nullable=False),
        sa.Column("renewed_at", sa.Float(), nullable=False),
        sa.Column("hinted_at", sa.Float(), server_default="0", nullable=False),
        sa.Column("stop_requested", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
    )
    op.create_index("ix_jobs_owner_created", "jobs", ["owner_id", "created_at", "id"])
    op.create_index("ix_jobs_open", "jobs", ["created_at"], sqlite_where=_OPEN, postgresql_where=_OPEN)
    op.add_column("tasks", sa.Column("job_id", sa.String(length=128), server_default="", nullable=False))
    op.add_column("tasks", sa.Column("job_index", sa.Integer(), server_default="0", nullable=False))
    op.create_index(
        "ix_tasks_job",
        "tasks",
        ["job_id", "state", "job_index"],
        sqlite_where=_OF_A_JOB,
        postgresql_where=_OF_A_JOB,
    )


def downgrade() -> None:
    op.drop_index("ix_tasks_job", "tasks")
    op.drop_column("tasks", "job_index")
    op.drop_column("tasks", "job_id")
    op.drop_table("jobs")
