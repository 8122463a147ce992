"""The SQL tables of people and their money: accounts, logins, the ledger, credit, what operators did.

Beside those of nodes and tasks in tables.py, where everybody imports them from.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

# Alembic needs names to change constraints later.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

users = Table(
    "users",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("username", String(64), nullable=False, unique=True),
    Column("password_hash", String(100), nullable=False),
    Column("role", String(16), nullable=False, server_default="user"),
    Column("credit_score", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    # When the score was last brought nearer to its start value.
    Column("credit_decayed_at", Float, nullable=False, server_default="0"),
    Column("blocked", Boolean, nullable=False, server_default=text("false")),
    # Tokens of an earlier generation are not valid any more.
    Column("token_generation", Integer, nullable=False, server_default="0"),
    # The same for names that people would take for one another; none where there were such names before.
    Column("name_key", Text),
)
Index("uq_users_name_key", users.c.name_key, unique=True)

# Values are encrypted (stores/files/secret_box.py), and open under this user and name alone.
user_secrets = Table(
    "user_secrets",
    metadata,
    Column("user_id", ForeignKey("users.id"), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("value_bytes", Integer, nullable=False),  # of the value itself
    Column("set_at", Float, nullable=False),
)

# Wrong passwords in a row, alike for names that exist and names that do not.
# nodepool/domain/accounts/lockout.py has the rules.
login_guards = Table(
    "login_guards",
    metadata,
    Column("id", String(64), primary_key=True),  # a hash of the name, and of the address where it is known
    Column("failures", Integer, nullable=False),
    Column("locked_until", Float, nullable=False),
    # A keyed hash of the last wrong password: who only repeats it has not guessed again.
    Column("last_guess", String(64), nullable=False),
    Column("changed_at", Float, nullable=False, index=True),
)

# From where an account has logged in; hashes of addresses.
login_addresses = Table(
    "login_addresses",
    metadata,
    Column("user_id", ForeignKey("users.id"), primary_key=True),
    Column("address", String(64), primary_key=True),
    Column("seen_at", Float, nullable=False),
)

# Double entry: every movement takes from one account and gives to another. What was ever minted is the
# mint's debt, so that the sum of all balances is zero; nobody else's may be below it.
ledger_accounts = Table(
    "ledger_accounts",
    metadata,
    Column("id", String(80), primary_key=True),  # user:<user id>, escrow, pending, fee, mint
    Column("kind", String(16), nullable=False),
    Column("user_id", ForeignKey("users.id"), unique=True),
    Column("balance", BigInteger, nullable=False),
    CheckConstraint("kind = 'mint' OR balance >= 0", name="not_negative"),
)

# Never changed, never deleted: triggers refuse both.
ledger_entries = Table(
    "ledger_entries",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("id", String(300), nullable=False, unique=True),  # of what it is for: a repeat finds it
    Column("kind", String(16), nullable=False),
    Column("debit_account", ForeignKey("ledger_accounts.id"), nullable=False),  # it is taken from
    Column("credit_account", ForeignKey("ledger_accounts.id"), nullable=False),  # and given to
    Column("amount", BigInteger, nullable=False),
    Column("debit_balance", BigInteger, nullable=False),  # afterwards
    Column("credit_balance", BigInteger, nullable=False),
    Column("task_id", String(128), nullable=False, server_default=""),
    Column("memo", Text, nullable=False, server_default=""),
    Column("created_at", Float, nullable=False),
    Column("hash", String(64), nullable=False),  # over this row and the hash of the one before
    CheckConstraint("amount > 0", name="positive"),
)
Index("ix_ledger_entries_debit", ledger_entries.c.debit_account, ledger_entries.c.seq)
Index("ix_ledger_entries_credit", ledger_entries.c.credit_account, ledger_entries.c.seq)
Index("ix_ledger_entries_task", ledger_entries.c.task_id, ledger_entries.c.seq)

# Who sent whom CPT, which is seldom beside what tasks move.
_TRANSFER = text("kind = 'transfer'")
Index(
    "ix_ledger_entries_transfer",
    ledger_entries.c.debit_account,
    ledger_entries.c.credit_account,
    sqlite_where=_TRANSFER,
    postgresql_where=_TRANSFER,
)

# One row: the newest entry. Who writes entries locks it first.
ledger_head = Table(
    "ledger_head",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
)

holds = Table(
    "holds",
    metadata,
    # No foreign key: the hold stays when its task is removed.
    Column("task_id", String(128), primary_key=True),
    Column("account_id", ForeignKey("ledger_accounts.id"), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("price_per_minute", BigInteger, nullable=False),
    Column("max_minutes", Integer, nullable=False),
    Column("fee_percent", Integer, nullable=False, server_default="0"),
    Column("state", String(16), nullable=False),  # held, posted, voided
    Column("posted", BigInteger, nullable=False, server_default="0"),
    Column("created_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("task_removed_at", Float),  # when the pool removed its task; none: the task is there
    CheckConstraint("posted >= 0 AND posted <= amount", name="posted_within"),
)
# What an account's tasks hold now.
Index(
    "ix_holds_held",
    holds.c.account_id,
    sqlite_where=holds.c.state == "held",
    postgresql_where=holds.c.state == "held",
)

# Every change of a credit score, with its reason.
credit_changes = Table(
    "credit_changes",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", String(300), nullable=False, unique=True),  # of what it is for: a repeat finds it
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("delta", Integer, nullable=False),
    Column("score_after", Integer, nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("task_id", String(128), nullable=False, server_default=""),
    Column("node_id", String(129), nullable=False, server_default=""),
    Column("created_at", Float, nullable=False),
)
Index("ix_credit_changes_user", credit_changes.c.user_id, credit_changes.c.seq)
# What a cause moved somebody's score by lately.
Index("ix_credit_changes_kind", credit_changes.c.user_id, credit_changes.c.kind, credit_changes.c.created_at)

# What the operator did. Never changed, never deleted: triggers refuse both.
admin_acts = Table(
    "admin_acts",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("admin", String(64), nullable=False),
    Column("action", String(32), nullable=False),
    Column("subject", String(300), nullable=False),
    Column("detail", Text, nullable=False, server_default=""),
    Column("created_at", Float, nullable=False),
)
