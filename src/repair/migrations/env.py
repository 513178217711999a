"""Runs the migrations on the connection that `repair.schema` hands over; no files, no logs."""

from __future__ import annotations

from alembic import context

from repair.schema import metadata

# SQLite can roll back DDL; the caller's transaction makes every upgrade whole or void.
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
