"""Alembic comes by here to run migrations; the connection, in a transaction, is given by `atdata.index.migration`."""

from alembic import context

from atdata.index.migration import REVISION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=REVISION_TABLE)
context.run_migrations()
