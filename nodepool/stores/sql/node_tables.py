"""The SQL table of nodes. Everybody imports it from tables.py."""

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

nodes = Table(
    "nodes",
    metadata,
    Column("id", String(129), primary_key=True),
    Column("owner_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("hostname", String(200), nullable=False),
    Column("port", Integer, nullable=False),
    # Where the last registration came from, without a port; empty when the gateway could not tell.
    Column("peer_address", String(64), nullable=False, server_default=""),
    # Of the token that a node without an agent is registered with: it counts for that node's words (hex).
    Column("token_sha256", String(64), nullable=False, server_default=""),
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
    # As the agent tells (nodepool/domain/nodes/isolation.py); empty: it does not, and docker_status says it.
    Column("isolation", String(16), nullable=False, server_default=""),
    Column("accepts_strangers", Boolean, nullable=False, server_default=text("false")),
    # What its agent can do for a run, with blanks between (nodepool/domain/capabilities.py).
    Column("capabilities", Text, nullable=False, server_default=""),
    Column("max_tasks", Integer, nullable=False),
    Column("draining", Boolean, nullable=False, server_default=text("false")),
    Column("active", Boolean, nullable=False, server_default=text("true")),
    Column("registered_at", Float, nullable=False),
    Column("heard_at", Float, nullable=False, server_default="0"),  # by a gateway that cannot tell Redis
    # History: decayed sums of attempts that ended well and badly, and of speed beside cpu_score, as of
    # history_at; nodepool/domain/nodes/history.py has the rules.
    Column("history_good", Float, nullable=False, server_default="0"),
    Column("history_bad", Float, nullable=False, server_default="0"),
    Column("history_speed_sum", Float, nullable=False, server_default="0"),
    Column("history_speed_weight", Float, nullable=False, server_default="0"),
    Column("history_at", Float, nullable=False, server_default="0"),
    # Attempts lost or refused since the last one that ended well; several put the node on probation.
    Column("bad_streak", Integer, nullable=False, server_default="0"),
    # What probes found where the node claims much more; 0: its word is taken.
    Column("measured_cpu_score", Integer, nullable=False, server_default="0"),
    Column("slow_probes", Integer, nullable=False, server_default="0"),  # in a row
    Column("probe_due_at", Float, nullable=False, server_default="0"),
    # Docker counts: a probe ran in a container, or nobody probes here.
    Column("engine_shown", Boolean, nullable=False, server_default=text("false")),
    # Why it can run nothing now, and what it refused; nodepool/domain/nodes/fitness.py has the rules.
    Column("unfit", String(200), nullable=False, server_default=""),
    Column("refused_in_row", Integer, nullable=False, server_default="0"),
    Column("refused_user", Integer, nullable=False, server_default="0"),
    Column("backoff_until", Float, nullable=False, server_default="0"),
    Column("message_bytes", BigInteger, nullable=False, server_default="0"),  # the largest that it takes
    Column("message_bytes_at", Float, nullable=False, server_default="0"),
    # What it has shown to speak; nodepool/domain/nodes/generation.py has the rules.
    Column("generation", String(16), nullable=False, server_default=""),
    Column("absent_images", Text, nullable=False, server_default=""),  # JSON: image, and when it was missed
    # When it was last heard of, noted about once an hour; 0: not known.
    Column("seen_at", Float, nullable=False, server_default="0"),
)
Index("ix_nodes_away", nodes.c.seen_at)
