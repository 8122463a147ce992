"""the ledger, holds, credit changes, acts of the operator; replicas and probes

The old balances become accounts of the ledger, and their table goes away: a gateway of the version before
that still runs accepts and ends tasks, but registers nobody and moves no CPT any more.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from nodepool.domain.accounts.credentials import name_key

# The chain's rules are those of every ledger that exists, and so may be used here; tables may not.
from nodepool.domain.money import ledger
from nodepool.domain.money.ledger import EntryKind, NewEntry, Posted
from nodepool.stores.sql.ledger.triggers import create_triggers, drop_triggers

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_USER_COLUMNS = ("token_generation", "blocked", "credit_decayed_at")
_TASK_COLUMNS = (
    "price_per_minute", "result_digest", "verification", "compare_outputs", "replicas", "parent_id", "kind",
)  # fmt: skip
_PROBE_COLUMNS = ("measured_cpu_score", "slow_probes", "probe_due_at")
_ENTRY_COLUMNS = (
    "seq", "id", "kind", "debit_account", "credit_account", "amount", "debit_balance", "credit_balance",
    "task_id", "memo", "created_at", "hash",
)  # fmt: skip
_SEQ = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("users", sa.Column("credit_decayed_at", sa.Float(), server_default="0", nullable=False))
    op.add_column(
        "users", sa.Column("blocked", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column("users", sa.Column("token_generation", sa.Integer(), server_default="0", nullable=False))
    _add_name_keys()
    _create_logins()
    _add_task_columns()
    _create_ledger()
    _create_records()
    _create_verification()
    _create_probes()
    create_triggers(op.get_bind())
    _open_accounts()
    op.drop_table("accounts")


def downgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("balance", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("balance >= 0", name=op.f("ck_accounts_not_negative")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_accounts_user_id")),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_accounts")),
    )
    op.execute(
        "INSERT INTO accounts (user_id, balance) "
        "SELECT user_id, balance FROM ledger_accounts WHERE user_id IS NOT NULL"
    )
    drop_triggers(op.get_bind())
    for table in (
        "provisional_results",
        "owner_records",
        "node_records",
        "probes",
        "admin_acts",
        "credit_changes",
        "holds",
        "ledger_head",
        "ledger_entries",
        "ledger_accounts",
    ):
        op.drop_table(table)
    op.drop_index("ix_tasks_parent", table_name="tasks")
    for name in _TASK_COLUMNS:
        op.drop_column("tasks", name)
    for name in _PROBE_COLUMNS:
        op.drop_column("nodes", name)
    op.drop_table("login_addresses")
    op.drop_table("login_guards")
    op.drop_index("uq_users_name_key", table_name="users")
    for name in ("name_key", *_USER_COLUMNS):
        op.drop_column("users", name)


def _add_name_keys() -> None:
    """Of names that are too much alike the first keeps its key, and the others go on without one."""
    op.add_column("users", sa.Column("name_key", sa.Text(), nullable=True))
    connection = op.get_bind()
    users = sa.table("users", *map(sa.column, ("id", "username", "name_key")))
    taken: set[str] = set()
    rows = connection.execute(sa.select(users.c.id, users.c.username).order_by(users.c.id)).all()
    for user_id, username in rows:
        key = name_key(username)
        if key not in taken:
            taken.add(key)
            connection.execute(sa.update(users).where(users.c.id == user_id).values(name_key=key))
    op.create_index("uq_users_name_key", "users", ["name_key"], unique=True)


def _create_verification() -> None:
    op.create_table(
        "node_records",
        sa.Column("node_id", sa.String(length=129), nullable=False),
        sa.Column("verified", sa.Integer(), server_default="0", nullable=False),
        sa.Column("paused_until", sa.Float(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name=op.f("fk_node_records_node_id")),
        sa.PrimaryKeyConstraint("node_id", name=op.f("pk_node_records")),
    )
    op.create_table(
        "owner_records",
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("strikes", sa.Integer(), server_default="0", nullable=False),
        sa.Column("clean", sa.Integer(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_owner_records_user_id")),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_owner_records")),
    )
    op.create_table(
        "provisional_results",
        sa.Column("task_id", sa.String(length=128), nullable=False),
        sa.Column("attempt_id", sa.String(length=140), nullable=False),
        sa.Column("node_id", sa.String(length=129), nullable=False),
        sa.Column("owner_id", sa.Integer(), nullable=False),
        sa.Column("finished_at", sa.Float(), nullable=False),
        sa.Column("block", sa.String(length=128), server_default="", nullable=False),
        sa.Column("drawn", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("recalled", sa.String(length=8), server_default="", nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_provisional_results_task_id")),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name=op.f("fk_provisional_results_node_id")),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_provisional_results_owner_id")),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_provisional_results")),
    )
    op.create_index("ix_provisional_results_node", "provisional_results", ["node_id", "block"], unique=False)
    op.create_index("ix_provisional_results_block", "provisional_results", ["block"], unique=False)


def _create_logins() -> None:
    op.create_table(
        "login_guards",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("locked_until", sa.Float(), nullable=False),
        sa.Column("last_guess", sa.String(length=64), nullable=False),
        sa.Column("changed_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_login_guards")),
    )
    op.create_index("ix_login_guards_changed_at", "login_guards", ["changed_at"], unique=False)
    op.create_table(
        "login_addresses",
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("seen_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_login_addresses_user_id")),
        sa.PrimaryKeyConstraint("user_id", "address", name=op.f("pk_login_addresses")),
    )


def _open_accounts() -> None:
    """Every user's old balance as a grant of the mint; nobody has less or more than before."""
    connection = op.get_bind()
    accounts = sa.table("ledger_accounts", *map(sa.column, ("id", "kind", "user_id", "balance")))
    entries = sa.table("ledger_entries", *map(sa.column, _ENTRY_COLUMNS))
    head = sa.table("ledger_head", *map(sa.column, ("id", "seq", "hash")))
    for system in (ledger.ESCROW, ledger.PENDING, ledger.FEE, ledger.MINT):
        connection.execute(sa.insert(accounts).values(id=system, kind=system, user_id=None, balance=0))
    seq, minted, last_hash = 0, 0, ledger.GENESIS
    now = float(connection.execute(sa.text("SELECT coalesce(max(created_at), 0) FROM users")).scalar_one())
    query = "SELECT u.id, a.balance FROM users u LEFT JOIN accounts a ON a.user_id = u.id ORDER BY u.id"
    for user_id, balance in connection.execute(sa.text(query)).all():
        account, amount = ledger.user_account(user_id), int(balance or 0)
        connection.execute(
            sa.insert(accounts).values(id=account, kind="user", user_id=user_id, balance=amount)
        )
        if not amount:
            continue
        seq, minted = seq + 1, minted + amount
        if minted > ledger.MAX_CPT:
            raise RuntimeError(f"the accounts hold more than {ledger.MAX_CPT} CPT together; lower some first")
        entry = NewEntry(
            ledger.opening_id(user_id), EntryKind.GRANT, ledger.MINT, account, amount, memo="carried over"
        )
        last_hash = ledger.entry_hash(last_hash, Posted(seq, entry, -minted, amount, now))
        values = (
            seq, entry.id, "grant", ledger.MINT, account, amount, -minted, amount,
            "", entry.memo, now, last_hash,
        )  # fmt: skip
        connection.execute(sa.insert(entries).values(dict(zip(_ENTRY_COLUMNS, values, strict=True))))
    connection.execute(sa.update(accounts).where(accounts.c.id == ledger.MINT).values(balance=-minted))
    connection.execute(sa.insert(head).values(id=1, seq=seq, hash=last_hash))


def _add_task_columns() -> None:
    op.add_column("tasks", sa.Column("kind", sa.String(length=16), server_default="user", nullable=False))
    op.add_column("tasks", sa.Column("parent_id", sa.String(length=128), server_default="", nullable=False))
    op.add_column("tasks", sa.Column("replicas", sa.Integer(), server_default="1", nullable=False))
    op.add_column("tasks", sa.Column("compare_outputs", sa.Text(), server_default="", nullable=False))
    op.add_column("tasks", sa.Column("verification", sa.String(length=16), server_default="", nullable=False))
    op.add_column(
        "tasks", sa.Column("result_digest", sa.String(length=64), server_default="", nullable=False)
    )
    op.add_column("tasks", sa.Column("price_per_minute", sa.BigInteger(), server_default="0", nullable=False))
    op.create_index("ix_tasks_parent", "tasks", ["parent_id"], unique=False)


def _create_ledger() -> None:
    op.create_table(
        "ledger_accounts",
        sa.Column("id", sa.String(length=80), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("balance", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind = 'mint' OR balance >= 0", name=op.f("ck_ledger_accounts_not_negative")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_ledger_accounts_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_accounts")),
        sa.UniqueConstraint("user_id", name=op.f("uq_ledger_accounts_user_id")),
    )
    op.create_table(
        "ledger_entries",
        sa.Column("seq", _SEQ, autoincrement=False, nullable=False),
        sa.Column("id", sa.String(length=300), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("debit_account", sa.String(length=80), nullable=False),
        sa.Column("credit_account", sa.String(length=80), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("debit_balance", sa.BigInteger(), nullable=False),
        sa.Column("credit_balance", sa.BigInteger(), nullable=False),
        sa.Column("task_id", sa.String(length=128), server_default="", nullable=False),
        sa.Column("memo", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.CheckConstraint("amount > 0", name=op.f("ck_ledger_entries_positive")),
        sa.ForeignKeyConstraint(
            ["debit_account"], ["ledger_accounts.id"], name=op.f("fk_ledger_entries_debit_account")
        ),
        sa.ForeignKeyConstraint(
            ["credit_account"], ["ledger_accounts.id"], name=op.f("fk_ledger_entries_credit_account")
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_ledger_entries")),
        sa.UniqueConstraint("id", name=op.f("uq_ledger_entries_id")),
    )
    op.create_index("ix_ledger_entries_debit", "ledger_entries", ["debit_account", "seq"], unique=False)
    op.create_index("ix_ledger_entries_credit", "ledger_entries", ["credit_account", "seq"], unique=False)
    op.create_index("ix_ledger_entries_task", "ledger_entries", ["task_id", "seq"], unique=False)
    op.create_table(
        "ledger_head",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_head")),
    )
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
        sa.CheckConstraint("posted >= 0 AND posted <= amount", name=op.f("ck_holds_posted_within")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_holds_task_id")),
        sa.ForeignKeyConstraint(["account_id"], ["ledger_accounts.id"], name=op.f("fk_holds_account_id")),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_holds")),
    )
    op.create_index(
        "ix_holds_held",
        "holds",
        ["account_id"],
        unique=False,
        sqlite_where=sa.text("state = 'held'"),
        postgresql_where=sa.text("state = 'held'"),
    )


def _create_records() -> None:
    op.create_table(
        "credit_changes",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(length=300), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("delta", sa.Integer(), nullable=False),
        sa.Column("score_after", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("task_id", sa.String(length=128), server_default="", nullable=False),
        sa.Column("node_id", sa.String(length=129), server_default="", nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_credit_changes_user_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_credit_changes")),
        sa.UniqueConstraint("id", name=op.f("uq_credit_changes_id")),
    )
    op.create_index("ix_credit_changes_user", "credit_changes", ["user_id", "seq"], unique=False)
    op.create_index(
        "ix_credit_changes_kind", "credit_changes", ["user_id", "kind", "created_at"], unique=False
    )
    op.create_table(
        "admin_acts",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("admin", sa.String(length=64), nullable=False),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.String(length=300), nullable=False),
        sa.Column("detail", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_admin_acts")),
    )


def _create_probes() -> None:
    op.add_column("nodes", sa.Column("measured_cpu_score", sa.Integer(), server_default="0", nullable=False))
    op.add_column("nodes", sa.Column("slow_probes", sa.Integer(), server_default="0", nullable=False))
    op.add_column("nodes", sa.Column("probe_due_at", sa.Float(), server_default="0", nullable=False))
    op.create_table(
        "probes",
        sa.Column("task_id", sa.String(length=128), nullable=False),
        sa.Column("node_id", sa.String(length=129), nullable=False),
        sa.Column("seed", sa.String(length=64), nullable=False),
        sa.Column("chains", sa.Integer(), nullable=False),
        sa.Column("work", sa.BigInteger(), nullable=False),
        sa.Column("claimed_cpu_score", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("verdict", sa.String(length=16), server_default="", nullable=False),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name=op.f("fk_probes_node_id")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_probes_task_id")),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_probes")),
    )
    op.create_index(
        "ix_probes_open",
        "probes",
        ["created_at"],
        unique=False,
        sqlite_where=sa.text("verdict = ''"),
        postgresql_where=sa.text("verdict = ''"),
    )
