"""The SQL tables of what results say of nodes and owners. Everybody imports them from tables.py."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, ForeignKey, Index, Integer, String, Table, text

from nodepool.stores.sql.account_tables import metadata

# Tasks with an answer that the pool knows.
probes = Table(
    "probes",
    metadata,
    Column("task_id", ForeignKey("tasks.id"), primary_key=True),
    Column("node_id", ForeignKey("nodes.id"), nullable=False),
    Column("seed", String(64), nullable=False),  # never told before the node has claimed the task
    Column("chains", Integer, nullable=False),
    # How much there is to compute, in points of cpu_score times seconds, and what the node claimed then.
    Column("work", BigInteger, nullable=False),
    Column("claimed_cpu_score", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("verdict", String(16), nullable=False, server_default=""),  # empty: not judged yet
)
# Those that are not judged yet, and the newest with a verdict.
Index("ix_probes_verdict", probes.c.verdict, probes.c.created_at)
Index("ix_probes_node", probes.c.node_id)
# What checked results say of nodes and owners (domain/trust/audits.py). Rows come with the first finding.
node_records = Table(
    "node_records",
    metadata,
    Column("node_id", ForeignKey("nodes.id"), primary_key=True),
    Column("verified", Integer, nullable=False, server_default="0"),  # in a row
    Column("paused_until", Float, nullable=False, server_default="0"),
    Column("watched", Integer, nullable=False, server_default="0"),  # results that the pool checks next
)
owner_records = Table(
    "owner_records",
    metadata,
    Column("user_id", ForeignKey("users.id"), primary_key=True),
    Column("strikes", Integer, nullable=False, server_default="0"),
    Column("clean", Integer, nullable=False, server_default="0"),  # verified since the last strike
)
# Results of low-trust nodes that are not paid yet; a row lives until its block has passed or is recalled.
provisional_results = Table(
    "provisional_results",
    metadata,
    Column("task_id", ForeignKey("tasks.id"), primary_key=True),
    Column("attempt_id", String(140), nullable=False),
    Column("node_id", ForeignKey("nodes.id"), nullable=False),
    Column("owner_id", ForeignKey("users.id"), nullable=False),  # of the node
    Column("finished_at", Float, nullable=False),
    # Empty while open, then the run that checks it, or the task that was drawn for it.
    Column("block", String(128), nullable=False, server_default=""),
    Column("drawn", Boolean, nullable=False, server_default=text("false")),
    # strict or lenient: its node was found to lie elsewhere, and it is run again by itself.
    Column("recalled", String(8), nullable=False, server_default=""),
)
Index("ix_provisional_results_node", provisional_results.c.node_id, provisional_results.c.block)
Index("ix_provisional_results_block", provisional_results.c.block)
