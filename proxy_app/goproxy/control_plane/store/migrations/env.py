"""Alembic runs this for every upgrade: on the connection, and in the transaction, that `migrating.upgrade` gives it."""

from __future__ import annotations

from alembic import context

from goproxy.control_plane.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
