"""what nodes refuse and say of themselves; how long attempts ran, as it is paid for"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_OF_NODES = (
    ("unfit", sa.String(length=200), ""),
    ("refused_in_row", sa.Integer(), "0"),
    ("refused_user", sa.Integer(), "0"),
    ("backoff_until", sa.Float(), "0"),
    ("absent_images", sa.Text(), ""),
)


def upgrade() -> None:
    for name, kind, default in _OF_NODES:
        op.add_column("nodes", sa.Column(name, kind, server_default=default, nullable=False))
    # Attempts that have ended keep what their times say.
    op.add_column("attempts", sa.Column("run_seconds", sa.Float(), nullable=True))


def downgrade() -> None:
    op.drop_column("attempts", "run_seconds")
    for name, _, _ in reversed(_OF_NODES):
        op.drop_column("nodes", name)
