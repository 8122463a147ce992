"""runs that nobody worked at, Docker as probes have shown it, nodes whose next results are checked

Nodes that are there already keep their standing: their next probe shows whether Docker works. A process of
the version before that still runs registers nodes as not shown yet.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "attempts", sa.Column("idle", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column(
        "nodes", sa.Column("engine_shown", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.execute("UPDATE nodes SET engine_shown = true")
    op.add_column("node_records", sa.Column("watched", sa.Integer(), server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_column("node_records", "watched")
    op.drop_column("nodes", "engine_shown")
    op.drop_column("attempts", "idle")
