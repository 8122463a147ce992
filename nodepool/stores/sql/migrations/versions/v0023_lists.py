"""lists of tasks are paged by time and id, and by state; beginnings of ids; who stopped a task"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_FALSE = sa.text("false")
_ON_A_NODE = sa.text("node_id != ''")
_HELD_BACK = sa.text("held_back_until > 0")
_NAMED = sa.text("name != ''")
_SINGLE = sa.text("job_id = ''")
# With what they had before.
_LONGER = {
    "ix_tasks_owner_created": (["owner_id", "created_at"], None),
    "ix_tasks_state_created": (["state", "created_at"], None),
    "ix_tasks_owner_name": (["owner_id", "name", "created_at"], _NAMED),
}


def upgrade() -> None:
    op.add_column(
        "tasks", sa.Column("stopped_by_operator", sa.Boolean(), server_default=_FALSE, nullable=False)
    )
    for name, (columns, where) in _LONGER.items():
        op.drop_index(name, "tasks")
        op.create_index(name, "tasks", [*columns, "id"], sqlite_where=where, postgresql_where=where)
    op.create_index("ix_tasks_owner_state", "tasks", ["owner_id", "state", "created_at", "id"])
    op.create_index(
        "ix_tasks_owner_node",
        "tasks",
        ["owner_id", "node_id", "created_at", "id"],
        sqlite_where=_ON_A_NODE,
        postgresql_where=_ON_A_NODE,
    )
    op.create_index(
        "ix_tasks_owner_held_back",
        "tasks",
        ["owner_id", "created_at", "id"],
        sqlite_where=_HELD_BACK,
        postgresql_where=_HELD_BACK,
    )
    op.create_index(
        "ix_tasks_owner_single",
        "tasks",
        ["owner_id", "id"],
        sqlite_where=_SINGLE,
        postgresql_where=_SINGLE,
        postgresql_ops={"id": "text_pattern_ops"},
    )


def downgrade() -> None:
    op.drop_index("ix_tasks_owner_single", "tasks")
    op.drop_index("ix_tasks_owner_held_back", "tasks")
    op.drop_index("ix_tasks_owner_node", "tasks")
    op.drop_index("ix_tasks_owner_state", "tasks")
    for name, (columns, where) in _LONGER.items():
        op.drop_index(name, "tasks")
        op.create_index(name, "tasks", columns, sqlite_where=where, postgresql_where=where)
    op.drop_column("tasks", "stopped_by_operator")
