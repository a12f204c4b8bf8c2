"""How a store of an older goproxy becomes one of this: run by alembic at every start, in one transaction."""
