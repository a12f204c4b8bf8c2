"""Waiting for what comes true by itself, within a time that is said."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx2


def wait_until(true: Callable[[], bool], timeout: float) -> None:
    """Wait until something is true. Where an answer does not come, it is not so yet."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            if true():
                return
        except httpx2.HTTPError:
            pass
        assert time.monotonic() < deadline, f"not so within {timeout} s"
        time.sleep(0.2)
