"""how far nodes keep runs apart, and whether their owners take strangers' tasks all the same

Rows that were there say nothing of it, as those of a gateway of the version before that still runs: what
docker_status says counts then.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("nodes", sa.Column("isolation", sa.String(length=16), server_default="", nullable=False))
    op.add_column(
        "nodes", sa.Column("accepts_strangers", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )


def downgrade() -> None:
    op.drop_column("nodes", "accepts_strangers")
    op.drop_column("nodes", "isolation")
