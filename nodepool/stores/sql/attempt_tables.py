"""The SQL table of attempts. Everybody imports it from tables.py."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    text,
)

from nodepool.stores.sql.account_tables import metadata

attempts = Table(
    "attempts",
    metadata,
    Column("id", String(140), primary_key=True),
    Column("task_id", ForeignKey("tasks.id"), nullable=False, index=True),
    Column("number", Integer, nullable=False),
    Column("node_id", ForeignKey("nodes.id"), nullable=False),
    Column("state", String(16), nullable=False),
    # In words, as they are shown; what it is by code and parameters (JSON). See domain/tasks/reasons.py.
    Column("reason", Text, nullable=False, server_default=""),
    Column("reason_code", String(32), nullable=False, server_default=""),
    Column("reason_parameters", Text, nullable=False, server_default=""),
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
    Column("run_seconds", Float),  # as it is paid for (domain/money/run_time.py); none: as its times say
    # Nothing showed that its node worked at it: not paid.
    Column("idle", Boolean, nullable=False, server_default=text("false")),
)
# With when they ended: the last end on a node is the end of a range.
Index("ix_attempts_node_state", attempts.c.node_id, attempts.c.state, attempts.c.finished_at)
# Of what ended long ago there is more than of anything else: no index by state has it.
_LIVE = text("state IN ('assigned', 'running')")
Index("ix_attempts_live", attempts.c.created_at, sqlite_where=_LIVE, postgresql_where=_LIVE)
LIVE_ATTEMPT = text("attempts.state IN ('assigned', 'running')")
# How many were started lately.
Index("ix_attempts_created", attempts.c.created_at)
