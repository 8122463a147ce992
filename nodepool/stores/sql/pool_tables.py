"""Tables about the pool as a whole, beside those of users, tasks and nodes (`tables`)."""

from __future__ import annotations

from sqlalchemy import Column, Float, String, Table, Text

from nodepool.stores.sql.tables import metadata

__all__ = ["metadata", "pool_records", "write_marks"]

# A few facts about the pool as a whole (see stores/sql/pool_records.py); the rows are there from the start.
pool_records = Table(
    "pool_records",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("at", Float, nullable=False),
    Column("value", Text, nullable=False, server_default=""),
)

# What a write leaves until its answer has come (see stores/sql/lost_connections.py). By the database's clock.
write_marks = Table(
    "write_marks",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("at", Float, nullable=False),
)
