"""nodes without an agent: the token that they are registered with, which goes on counting for their words"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("nodes", sa.Column("token_sha256", sa.String(length=64), server_default="", nullable=False))


def downgrade() -> None:
    op.drop_column("nodes", "token_sha256")
