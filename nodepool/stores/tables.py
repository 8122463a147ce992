"""The SQL tables. Times are Unix seconds as floats; money and sizes are integers."""

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
)

accounts = Table(
    "accounts",
    metadata,
    Column("user_id", ForeignKey("users.id"), primary_key=True),
    Column("balance", BigInteger, nullable=False),
    CheckConstraint("balance >= 0", name="not_negative"),
)

nodes = Table(
    "nodes",
    metadata,
    Column("id", String(129), primary_key=True),
    Column("owner_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("hostname", String(200), nullable=False),
    Column("port", Integer, nullable=False),
    # Where the last registration came from, without a port; empty when the gateway could not tell.
    Column("peer_address", String(64), nullable=False, server_default=""),
    Column("kind", String(16), nullable=False),
    Column("cpu_cores", Integer, nullable=False),
    Column("cpu_score", Integer, nullable=False),
    Column("memory_gb", Integer, nullable=False),
    Column("gpu_score", Integer, nullable=False),
    Column("gpu_memory_gb", Integer, nullable=False),
    Column("gpu_name", String(200), nullable=False),
    Column("location", String(200), nullable=False),
    Column("region", String(16), nullable=False),
    Column("docker_status", String(200), nullable=False),
    Column("max_tasks", Integer, nullable=False),
    Column("draining", Boolean, nullable=False, server_default=text("false")),
    Column("active", Boolean, nullable=False, server_default=text("true")),
    Column("registered_at", Float, nullable=False),
    # History: decayed sums of attempts that ended well and badly, and of speed beside cpu_score, as of
    # history_at; nodepool/history.py has the rules.
    Column("history_good", Float, nullable=False, server_default="0"),
    Column("history_bad", Float, nullable=False, server_default="0"),
    Column("history_speed_sum", Float, nullable=False, server_default="0"),
    Column("history_speed_weight", Float, nullable=False, server_default="0"),
    Column("history_at", Float, nullable=False, server_default="0"),
    # Attempts lost or refused since the last one that ended well; several put the node on probation.
    Column("bad_streak", Integer, nullable=False, server_default="0"),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("owner_id", ForeignKey("users.id"), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("cpu_score", Integer, nullable=False),
    Column("memory_gb", Integer, nullable=False),
    Column("gpu_score", Integer, nullable=False),
    Column("gpu_memory_gb", Integer, nullable=False),
    Column("gpu_name", String(200), nullable=False),
    Column("region", String(16), nullable=False),
    Column("tier", String(16), nullable=False),
    Column("pinned_node", String(129), nullable=False, server_default=""),
    Column("priority", Integer, nullable=False, server_default="5"),
    Column("min_trust", String(16), nullable=False, server_default=""),
    Column("location_mode", String(16), nullable=False, server_default="strict"),
    Column("image", String(300), nullable=False),
    Column("network", Boolean, nullable=False),
    Column("max_minutes", Integer, nullable=False),
    Column("package_sha256", String(64), nullable=False),
    Column("package_bytes", BigInteger, nullable=False),
    # 0 until the first attempt; the current attempt's id is "<id>:<attempt_number>".
    Column("attempt_number", Integer, nullable=False, server_default="0"),
    Column("attempts_ended", Integer, nullable=False, server_default="0"),
    Column("node_id", String(129), nullable=False, server_default=""),
    Column("stop_requested", Boolean, nullable=False, server_default=text("false")),
    Column("exit_code", Integer),
    Column("result_bytes", BigInteger, nullable=False, server_default="0"),
    Column("result_attempt", String(140), nullable=False, server_default=""),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    # When the dispatcher was last told of it; the sweep tells it again.
    Column("hinted_at", Float, nullable=False),
    # When it last began to wait: accepted, or given back by a lost or refused attempt.
    Column("queued_at", Float, nullable=False, server_default="0"),
)
Index("ix_tasks_owner_created", tasks.c.owner_id, tasks.c.created_at)
Index("ix_tasks_state_created", tasks.c.state, tasks.c.created_at)
# A user's earlier runs of a package. Of ended tasks only, so that accepting one costs no more for it.
Index(
    "ix_tasks_package_finished",
    tasks.c.owner_id,
    tasks.c.package_sha256,
    tasks.c.finished_at,
    sqlite_where=tasks.c.finished_at.is_not(None),
    postgresql_where=tasks.c.finished_at.is_not(None),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", String(140), primary_key=True),
    Column("task_id", ForeignKey("tasks.id"), nullable=False, index=True),
    Column("number", Integer, nullable=False),
    Column("node_id", ForeignKey("nodes.id"), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("claim_cpu_score", Integer, nullable=False),
    Column("claim_memory_mb", Integer, nullable=False),
    Column("claim_gpu_score", Integer, nullable=False),
    Column("claim_gpu_memory_gb", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    # When its node was called, where the pool calls it; 0: not yet. An attempt is sent at most once.
    Column("pushed_at", Float, nullable=False, server_default="0"),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("exit_code", Integer),
    Column("cpu_seconds", Float),
    Column("peak_memory_bytes", BigInteger),
    Column("queue_seconds", Float, nullable=False, server_default="0"),
    Column("bytes_in", BigInteger, nullable=False, server_default="0"),
    Column("bytes_out", BigInteger, nullable=False, server_default="0"),
)
Index("ix_attempts_node_state", attempts.c.node_id, attempts.c.state)
Index("ix_attempts_state", attempts.c.state)
# How many were started lately.
Index("ix_attempts_created", attempts.c.created_at)
