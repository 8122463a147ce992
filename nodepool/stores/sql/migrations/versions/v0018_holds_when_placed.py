"""tasks whose price is set aside when they are placed; tasks with as many minutes as a balance covered"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_FALSE = sa.text("false")


def upgrade() -> None:
    # What is there holds its price since it was accepted.
    op.add_column(
        "tasks", sa.Column("holds_when_placed", sa.Boolean(), server_default=_FALSE, nullable=False)
    )
    op.add_column("tasks", sa.Column("fee_percent", sa.Integer(), server_default="0", nullable=False))
    op.add_column(
        "tasks", sa.Column("minutes_by_balance", sa.Boolean(), server_default=_FALSE, nullable=False)
    )


def downgrade() -> None:
    for name in ("minutes_by_balance", "fee_percent", "holds_when_placed"):
        op.drop_column("tasks", name)
