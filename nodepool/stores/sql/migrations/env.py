"""Alembic's entry: runs on the connection, and in the transaction, that migrate() opened."""

from __future__ import annotations

from alembic import context

from nodepool.stores.sql.pool_tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=False,
)
context.run_migrations()
