"""steps of flows that are done again in part: the number of tasks that runs are told"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job_steps", sa.Column("array_count", sa.Integer(), server_default="0", nullable=False))
    op.execute("UPDATE job_steps SET array_count = tasks")


def downgrade() -> None:
    op.drop_column("job_steps", "array_count")
