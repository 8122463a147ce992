"""nodes without an agent: the largest message that each takes, and which generation it has shown to speak"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_OF_NODES = (
    ("message_bytes", sa.BigInteger(), "0"),
    ("message_bytes_at", sa.Float(), "0"),
    # Nodes that are there go on getting work, and so do those that a gateway of before registers meanwhile.
    ("generation", sa.String(length=16), ""),
)


def upgrade() -> None:
    for name, kind, default in _OF_NODES:
        op.add_column("nodes", sa.Column(name, kind, server_default=default, nullable=False))


def downgrade() -> None:
    for name, _, _ in reversed(_OF_NODES):
        op.drop_column("nodes", name)
