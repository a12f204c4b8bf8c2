"""Tests of goproxy: over real sockets, against a provider that does what it is told (provider.py)."""
