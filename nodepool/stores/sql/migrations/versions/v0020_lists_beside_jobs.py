"""tasks of a job by their indices, and tasks of none by state, each by an index of its own"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_OF_A_JOB, _SINGLE = sa.text("job_id != ''"), sa.text("job_id = ''")


def upgrade() -> None:
    op.create_index(
        "ix_tasks_job_index",
        "tasks",
        ["job_id", "job_index"],
        sqlite_where=_OF_A_JOB,
        postgresql_where=_OF_A_JOB,
    )
    op.create_index(
        "ix_tasks_single_state",
        "tasks",
        ["state", "created_at", "id"],
        sqlite_where=_SINGLE,
        postgresql_where=_SINGLE,
    )


def downgrade() -> None:
    op.drop_index("ix_tasks_single_state", "tasks")
    op.drop_index("ix_tasks_job_index", "tasks")
