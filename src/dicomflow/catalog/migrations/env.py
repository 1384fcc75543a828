"""Alembic's environment: runs migrations on the connection and in the transaction that `engine.migrate` opened."""

from alembic import context

from dicomflow.catalog.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
