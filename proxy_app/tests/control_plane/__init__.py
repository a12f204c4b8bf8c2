"""The control plane: its store and its two APIs, on SQLite and on a real PostgreSQL."""
