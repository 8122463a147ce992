"""reasons of tasks and attempts by code and parameters, beside their words"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_TABLES = ("tasks", "attempts")


def upgrade() -> None:
    # Rows that are there keep their words, and read as what somebody told.
    for table in _TABLES:
        op.add_column(
            table, sa.Column("reason_code", sa.String(length=32), server_default="", nullable=False)
        )
        op.add_column(table, sa.Column("reason_parameters", sa.Text(), server_default="", nullable=False))


def downgrade() -> None:
    for table in _TABLES:
        op.drop_column(table, "reason_parameters")
        op.drop_column(table, "reason_code")
