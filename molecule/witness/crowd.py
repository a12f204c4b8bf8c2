"""Many users at once, while something is done to the gateway that none of them may notice.

Some have a stream open, which goes on until they are let go; others ask one short thing after the other, each on a
new connection: nginx closes idle ones at a reload, and a client that sends on one in that very moment has to ask again,
as with any server of HTTP/1.1. What any of them noticed is counted.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from .connection import Connection
from .edge import Edge
from .provider import Provider, sent_by
from .stream import OpenStream
from .user import User

T = TypeVar("T")

_ASKING = 2  # users of each domain who do
_STREAMS_OF_A_USER = 40  # a client's pool of connections has an end
_SERVED = "200"


@dataclass
class Noticed:
    """What a crowd noticed."""

    streams: int = 0
    cut_streams: int = 0
    lost_events: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    """By status, or by the kind of a failed connection."""
    problems: list[str] = field(default_factory=list)

    @property
    def gateway_errors(self) -> int:
        """Requests that were not served: another status than 200, or no answer at all."""
        return self.answers.total() - self.answers[_SERVED]

    @property
    def is_nothing(self) -> bool:
        """Whether all went well."""
        return not (self.cut_streams or self.lost_events or self.problems) and set(self.answers) == {_SERVED}

    def __iadd__(self, other: Noticed) -> Noticed:
        self.streams += other.streams
        self.cut_streams += other.cut_streams
        self.lost_events += other.lost_events
        self.answers += other.answers
        self.problems += other.problems
        return self


class Crowd:
    """Users of all domains of a gateway."""

    def __init__(
        self, connection: Connection, edge: Edge, providers: Mapping[str, Provider], streams: int, gap: float = 0.1
    ) -> None:
        """`gap`: seconds from event to event of each stream."""
        self._connection, self._edge, self._providers = connection, edge, providers
        self._number, self._gap = streams, gap
        self._streams: list[tuple[OpenStream, Provider]] = []
        self._is_over = threading.Event()
        self._answers: Counter[str] = Counter()
        self._problems: list[str] = []

    def across(self, act: Callable[[], T], is_leaving: Callable[[], bool], linger: float = 3) -> tuple[T, Noticed]:
        """Do something while streams are open and requests come.

        The streams end when the act is over, or before, once somebody waits for that: `linger` seconds after
        `is_leaving` said so. (Until then requests must find whoever does not leave.)
        """
        self._open()
        domains = list(self._connection.domains.values()) * _ASKING
        asking = [threading.Thread(target=self._ask, args=(domain,), daemon=True) for domain in domains]
        result: list[T] = []
        acting = threading.Thread(target=lambda: result.append(act()), daemon=True)
        try:
            for thread in (*asking, acting):
                thread.start()
            while acting.is_alive() and not is_leaving():
                acting.join(0.5)
            acting.join(linger)
            noticed = self._let_go()
            acting.join()
            time.sleep(1)  # and what comes right after it
        finally:
            self._is_over.set()  # whatever went wrong: they ask for ever otherwise
        for thread in asking:
            thread.join()
        noticed.answers, noticed.problems = self._answers, noticed.problems + self._problems
        assert result, "what was done raised an error"
        return result[0], noticed

    def _open(self) -> None:
        upstreams = list(self._connection.domains.items())
        user = User(self._edge, self._connection.api_key)
        for number in range(self._number):
            if number % _STREAMS_OF_A_USER == 0:
                user = User(self._edge, self._connection.api_key)
            upstream, domain = upstreams[number % len(upstreams)]
            provider = self._providers[upstream]
            self._streams.append((OpenStream(user, provider, domain, self._gap), provider))
        for stream, _ in self._streams:
            stream.wait_for_events(2, timeout=60)

    def _ask(self, domain: str) -> None:
        while not self._is_over.wait(0.1):
            user = User(self._edge, self._connection.api_key)
            try:
                with user.http:
                    answer = user.ask(domain, max_tokens=20)
            except Exception as problem:  # noqa: BLE001 - who dies of another error than HTTP's asks no more, and sees nothing
                self._answers[type(problem).__name__] += 1
                self._problems.append(repr(problem))
            else:
                self._answers[str(answer.status_code)] += 1
                if str(answer.status_code) != _SERVED:
                    self._problems.append(f"{domain}: {answer.status_code} {answer.text}")

    def _let_go(self) -> Noticed:
        noticed = Noticed(streams=len(self._streams))
        for stream, provider in self._streams:
            provider.release(stream.marker)
        for stream, provider in self._streams:
            stream.finish()
            sent, got = sent_by(provider.received(stream.marker)), stream.received
            is_cut = stream.status != 200 or stream.problem is not None or not got.endswith(_end(sent))
            if is_cut:
                noticed.cut_streams += 1
                noticed.problems.append(f"stream: {stream.status} {stream.problem!r} ends in {got[-200:]!r}")
            if is_cut or got != sent:
                noticed.lost_events += max(1, sent.count(b"\n\n") - got.count(b"\n\n"))
        return noticed


def _end(sent: bytes) -> bytes:
    """What the last event of a whole answer is."""
    last = sent.rstrip(b"\n").rpartition(b"\n\n")[2]
    assert b"message_stop" in last, f"the provider could not send all of its answer: {last!r}"
    return last + b"\n\n"
