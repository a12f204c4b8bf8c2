"""The control of a simulated provider: what it received, and how it is to behave (testkit/provider/control.py)."""

from __future__ import annotations

import base64
import time
from typing import Any

import httpx2

Received = dict[str, Any]


class Provider:
    """One simulated provider, at its control address."""

    def __init__(self, control: str) -> None:
        """Talk to a control address."""
        self._control = httpx2.Client(base_url=control, timeout=10, trust_env=False)

    def reset(self) -> None:
        """Let it behave again, end held streams, forget what it received."""
        self._control.delete("/_behaviour").raise_for_status()
        self._control.delete("/_requests").raise_for_status()

    def behave(self, **settings: Any) -> None:
        """Set how it behaves towards everybody: events=40, gap_ms=50, fault="refuse", ..."""
        self._control.put("/_behaviour", json=settings).raise_for_status()

    def behave_towards(self, match: str, **settings: Any) -> None:
        """Set how it behaves towards the next request whose body holds `match`."""
        self._control.post("/_behaviour", json={"match": match, **settings}).raise_for_status()

    def release(self, match: str) -> None:
        """Let a held stream whose request holds `match` go on to its end."""
        self._control.post("/_release", json={"match": match}).raise_for_status()

    def requests(self) -> list[Received]:
        """Give all that it received."""
        return list(self._control.get("/_requests").raise_for_status().json())

    def received(self, match: str) -> Received:
        """Give the one request whose body holds `match`, once it has been answered."""
        deadline = time.monotonic() + 30
        while True:
            found = self._found(match)
            if [request["ended"] is None for request in found] == [False] or time.monotonic() > deadline:
                assert len(found) == 1, f"the provider received {len(found)} requests with {match}"
                return found[0]
            time.sleep(0.05)

    def so_far(self, match: str) -> Received:
        """Give the one request whose body holds `match`, as far as it has been answered."""
        (found,) = self._found(match)
        return found

    def _found(self, match: str) -> list[Received]:
        return [request for request in self.requests() if match in str(request["body"])]


def sent_by(received: Received) -> bytes:
    """Give the exact bytes of the body that the provider answered with."""
    return base64.b64decode(received["sent"])
