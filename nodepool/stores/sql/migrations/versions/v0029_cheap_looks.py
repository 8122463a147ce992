"""what is looked for all the time is found by an index of what is unfinished, or at the end of one"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

_HELD_BACK = sa.text("held_back_until > 0")
_UNDECIDED = sa.text("replicas > 1 AND state IN ('WAITING', 'QUEUED', 'PLACED', 'RUNNING')")
_TRANSFER = sa.text("kind = 'transfer'")
_LIVE = sa.text("state IN ('assigned', 'running')")
_OPEN = sa.text("verdict = ''")
_FINAL_JOBS = (
    "DELETE FROM {table} WHERE {column} IN (SELECT id FROM jobs WHERE ended_at IS NOT NULL AND NOT EXISTS "
    "(SELECT 1 FROM tasks WHERE tasks.job_id = jobs.id AND tasks.job_id <> ''))"
)


def upgrade() -> None:
    # In the order in which they are paged through.
    op.drop_index("ix_tasks_held_back", "tasks")
    _partial("ix_tasks_held_back", "tasks", ["id"], _HELD_BACK)
    _partial("ix_tasks_undecided", "tasks", ["id"], _UNDECIDED)
    _partial("ix_ledger_entries_transfer", "ledger_entries", ["debit_account", "credit_account"], _TRANSFER)
    op.create_index("ix_jobs_owner_id", "jobs", ["owner_id", "id"], postgresql_ops={"id": "text_pattern_ops"})
    op.drop_index("ix_probes_open", "probes")
    op.create_index("ix_probes_verdict", "probes", ["verdict", "created_at"])
    op.drop_index("ix_attempts_node_state", "attempts")
    op.create_index("ix_attempts_node_state", "attempts", ["node_id", "state", "finished_at"])
    op.drop_index("ix_attempts_state", "attempts")
    _partial("ix_attempts_live", "attempts", ["created_at"], _LIVE)
    # They go with their last task from now on.
    for table, column in (("job_steps", "job_id"), ("jobs", "id")):
        op.execute(_FINAL_JOBS.format(table=table, column=column))


def downgrade() -> None:
    op.drop_index("ix_attempts_live", "attempts")
    op.create_index("ix_attempts_state", "attempts", ["state"])
    op.drop_index("ix_attempts_node_state", "attempts")
    op.create_index("ix_attempts_node_state", "attempts", ["node_id", "state"])
    op.drop_index("ix_probes_verdict", "probes")
    _partial("ix_probes_open", "probes", ["created_at"], _OPEN)
    op.drop_index("ix_jobs_owner_id", "jobs")
    op.drop_index("ix_ledger_entries_transfer", "ledger_entries")
    op.drop_index("ix_tasks_undecided", "tasks")
    op.drop_index("ix_tasks_held_back", "tasks")
    _partial("ix_tasks_held_back", "tasks", ["held_back_until"], _HELD_BACK)


def _partial(name: str, table: str, columns: list[str], where: sa.TextClause) -> None:
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)
