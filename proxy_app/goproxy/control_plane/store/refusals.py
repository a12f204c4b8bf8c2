"""What the store says no to; each text is for the operator who asked."""

from __future__ import annotations


class NotFound(Exception):
    """There is no such thing."""


class Conflict(Exception):
    """It contradicts what is stored; nothing was changed."""
