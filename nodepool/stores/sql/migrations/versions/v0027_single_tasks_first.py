"""tasks of no job by an index that SQLite takes before that of all states"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

_SINGLE = sa.text("job_id = ''")


def upgrade() -> None:
    _made_anew(["job_id", "state", "created_at", "id"])


def downgrade() -> None:
    _made_anew(["state", "created_at", "id"])


def _made_anew(names: list[str]) -> None:
    op.drop_index("ix_tasks_single_state", "tasks")
    op.create_index("ix_tasks_single_state", "tasks", names, sqlite_where=_SINGLE, postgresql_where=_SINGLE)
