"""The crowd of molecule/witness: what it counts as noticed, and that it goes home when its keeper stumbles."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from witness import crowd
from witness.crowd import Crowd, Noticed


@dataclass
class Asker:
    """Gets the statuses in turn, over and over; None is an error."""

    statuses: list[int | None]
    http: Any = field(default_factory=nullcontext)

    def ask(self, _domain: str, **_settings: Any) -> Any:
        status = self.statuses.pop(0)
        self.statuses.append(status)
        if status is None:
            raise OSError("no such file")
        return SimpleNamespace(status_code=status, text="")


@pytest.fixture
def gather(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(*statuses: int | None) -> Crowd:
        asker = Asker(list(statuses))
        monkeypatch.setattr(crowd, "User", lambda *_: asker)
        connection: Any = SimpleNamespace(domains={"alpha": "chat.example.org"}, api_key="")
        edge: Any = None
        return Crowd(connection, edge, {}, streams=0)

    return make


def test_every_request_that_was_not_served_is_an_error_of_the_gateway() -> None:
    answers = Counter({"200": 5, "502": 1, "504": 2, "429": 3, "401": 4, "ConnectError": 5})
    assert Noticed(answers=answers).gateway_errors == 15
    assert Noticed(answers=Counter({"200": 5})).gateway_errors == 0
    assert not Noticed().is_nothing, "nobody asked"


def test_who_meets_an_unexpected_error_asks_on(gather: Any) -> None:
    _, noticed = gather(200, None, 504).across(lambda: time.sleep(1), lambda: False)
    assert min(noticed.answers[each] for each in ("200", "OSError", "504")) > 1
    assert not noticed.is_nothing


def test_no_asker_stays_when_something_goes_wrong(gather: Any) -> None:
    before = set(threading.enumerate())

    def stumble() -> bool:
        raise RuntimeError("the host is gone")

    with pytest.raises(RuntimeError, match="the host is gone"):
        gather(200).across(lambda: time.sleep(1), stumble)
    deadline = time.monotonic() + 20
    while left := set(threading.enumerate()) - before:
        assert time.monotonic() < deadline, left
        assert all(thread.daemon for thread in left), "pytest would wait for them"
        time.sleep(0.05)
