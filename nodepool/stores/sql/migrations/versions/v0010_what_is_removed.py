"""what tasks keep goes after a while: files, rows, and nodes that left; the ledger stays

A hold stays when its task goes, and so refers to it by name only.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_HOLDS = (
    "task_id, account_id, amount, price_per_minute, max_minutes, fee_percent, state, posted, created_at, "
    "ended_at"
)
_ENDED = "finished_at IS NOT NULL AND kind <> 'replica' AND kind <> 'audit'"
_INDEXES = (
    ("ix_tasks_with_files", "tasks", ["finished_at"], f"{_ENDED} AND files_removed_at = 0"),
    ("ix_tasks_without_files", "tasks", ["finished_at"], f"{_ENDED} AND files_removed_at > 0"),
    ("ix_tasks_kept_log", "tasks", ["finished_at"], "log_bytes > 0"),
    ("ix_tasks_deleted", "tasks", ["deleted_at"], "deleted_at > 0"),
    ("ix_nodes_away", "nodes", ["seen_at"], None),
    ("ix_probes_node", "probes", ["node_id"], None),
)


def upgrade() -> None:
    for name, kind in (
        ("files_removed_at", sa.Float()),
        ("log_bytes", sa.BigInteger()),
        ("deleted_at", sa.Float()),
    ):
        op.add_column("tasks", sa.Column(name, kind, server_default="0", nullable=False))
    op.add_column("nodes", sa.Column("seen_at", sa.Float(), server_default="0", nullable=False))
    op.execute("UPDATE nodes SET seen_at = registered_at")
    for name, table, columns, where in _INDEXES:
        condition = sa.text(where) if where else None
        op.create_index(
            name, table, columns, unique=False, sqlite_where=condition, postgresql_where=condition
        )
    if op.get_bind().dialect.name == "sqlite":
        _make_holds_anew(refers=False)
    else:
        op.drop_constraint("fk_holds_task_id", "holds", type_="foreignkey")
        op.add_column("holds", sa.Column("task_removed_at", sa.Float(), nullable=True))


def refuses_downgrade(connection: sa.Connection) -> str:
    """The version before knows no hold without its task."""
    removed = "SELECT COUNT(*) FROM holds WHERE task_removed_at IS NOT NULL"
    count = connection.execute(sa.text(removed)).scalar_one()
    return f"{count} tasks were removed since, and their payments would go with them" if count else ""


def downgrade() -> None:
    # Their results are not there any more.
    op.execute("UPDATE tasks SET result_attempt = '', result_bytes = 0 WHERE files_removed_at > 0")
    if op.get_bind().dialect.name == "sqlite":
        _make_holds_anew(refers=True)
    else:
        op.drop_column("holds", "task_removed_at")
        op.execute(
            "ALTER TABLE holds ADD CONSTRAINT fk_holds_task_id FOREIGN KEY (task_id) REFERENCES tasks (id)"
        )
    for name, table, _, _ in _INDEXES:
        op.drop_index(name, table_name=table)
    op.drop_column("nodes", "seen_at")
    for name in ("deleted_at", "log_bytes", "files_removed_at"):
        op.drop_column("tasks", name)


def _make_holds_anew(*, refers: bool) -> None:
    """SQLite changes no constraint of a table that is there."""
    op.rename_table("holds", "old_holds")
    op.drop_index("ix_holds_held", table_name="old_holds")
    task = [sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_holds_task_id"))]
    removed = [sa.Column("task_removed_at", sa.Float(), nullable=True)]
    op.create_table(
        "holds",
        sa.Column("task_id", sa.String(length=128), nullable=False),
        sa.Column("account_id", sa.String(length=80), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("price_per_minute", sa.BigInteger(), nullable=False),
        sa.Column("max_minutes", sa.Integer(), nullable=False),
        sa.Column("fee_percent", sa.Integer(), server_default="0", nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("posted", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        *([] if refers else removed),
        sa.CheckConstraint("posted >= 0 AND posted <= amount", name=op.f("ck_holds_posted_within")),
        *(task if refers else []),
        sa.ForeignKeyConstraint(["account_id"], ["ledger_accounts.id"], name=op.f("fk_holds_account_id")),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_holds")),
    )
    op.execute(f"INSERT INTO holds ({_HOLDS}) SELECT {_HOLDS} FROM old_holds")  # noqa: S608 - constants
    op.drop_table("old_holds")
    op.create_index(
        "ix_holds_held",
        "holds",
        ["account_id"],
        unique=False,
        sqlite_where=sa.text("state = 'held'"),
        postgresql_where=sa.text("state = 'held'"),
    )
