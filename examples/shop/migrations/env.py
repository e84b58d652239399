"""The shop's own Alembic history, beside pgqueue's."""

from alembic import context
from sqlalchemy import text

connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table_schema="shop")
with context.begin_transaction():
    connection.execute(text("create schema if not exists shop"))
    context.run_migrations()
