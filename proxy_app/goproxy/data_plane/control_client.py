"""What this proxy says to the control plane, and what it hears: rows, leases, keys, what is in a wallet.

One call is one request. Whether to try again is the callers' matter; when, `BackOff` says. Nothing that the control
plane answers is believed without a look at its type: money is counted by it.
"""

from __future__ import annotations

import asyncio
import http
import json
import logging
import random
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from goproxy.core import key_snapshot
from goproxy.core.key_snapshot import InvalidSnapshot, KeySnapshot, ToldKeys
from goproxy.observe import log

_PATIENCE = 5.0
"""Seconds for an answer. One that comes later is of no use: a lease is asked for anew."""

_ROWS_PATIENCE = 30.0

_PAUSE = 0.2
_LONGEST_PAUSE = 2.0
"""Seconds before another attempt: at first, and at most."""

T = TypeVar("T")

_SHOWN = 200  # characters of a refusal in a log line


class ControlPlaneAway(Exception):
    """There is no answer that could be used. The call may have had its effect all the same."""


class ControlPlaneRefuses(Exception):
    """The call was understood and had no effect; the text is the control plane's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status} {message}")
        self.status = status

    @property
    def is_conflict(self) -> bool:
        """Whether this instance must become another one."""
        return self.status == http.HTTPStatus.CONFLICT


@dataclass(frozen=True, slots=True)
class PostedRows:
    """What became of rows, by id; those in neither are to be posted again."""

    accepted: tuple[str, ...]
    rejected: Mapping[str, str]
    """With the reason."""


@dataclass(frozen=True, slots=True)
class LeaseCall:
    """For one wallet: all that this instance knows it was lent, and how much more it wants, in nano-dollars."""

    wallet: str
    known_total: int
    want: int


@dataclass(frozen=True, slots=True)
class LeaseAnswer:
    """For one wallet, in nano-dollars."""

    wallet: str
    granted_total: int
    """All that this instance is lent now."""
    spent_total: int
    """What its rows cost that are known there."""
    balance: int
    """What is left to lend."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What is in a wallet, in nano-dollars."""

    credits: int
    """All that it was ever given, less what was withdrawn."""
    spent: int
    """By the rows that came."""
    renews: str | None = None
    """With each day, week or month; None: not by itself."""
    renews_to: int | None = None
    renews_at: str | None = None


class ControlClient:
    """The control plane, as the proxy of one upstream reaches it."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str, token: str, upstream: str) -> None:
        self._session = session
        self._base = URL(base_url)
        self._headers = {"Authorization": f"Bearer {token}"}
        self._upstream = upstream

    async def post_rows(self, instance: str, rows: Sequence[bytes]) -> PostedRows:
        """Post rows, each as its JSON. Posting one twice is posting it once.

        Raises:
            ControlPlaneAway, ControlPlaneRefuses
        """
        envelope = json.dumps({"instance": instance, "upstream": self._upstream}).encode()
        body = envelope[:-1] + b', "rows": [' + b",".join(rows) + b"]}"
        match await self._call("POST", "rows", body=body, patience=_ROWS_PATIENCE):
            case {"accepted": list() as accepted, "rejected": list() as rejected}:
                return PostedRows(
                    tuple(str(id_) for id_ in accepted),
                    {str(each.get("id")): str(each.get("reason")) for each in rejected if isinstance(each, dict)},
                )
        raise ControlPlaneAway("it answers in a way that is not known")

    async def lease(self, instance: str, sequence: int, calls: Sequence[LeaseCall]) -> list[LeaseAnswer]:
        """Tell what is lent, and ask for more. `sequence` must ascend with every call of an instance.

        Raises:
            ControlPlaneAway, ControlPlaneRefuses: 409 if the sequence does not ascend.
        """
        document = {
            "instance": instance,
            "upstream": self._upstream,
            "sequence": sequence,
            "leases": [{"wallet": call.wallet, "known_total": call.known_total, "want": call.want} for call in calls],
        }
        match await self._call("POST", "leases", body=json.dumps(document).encode()):
            case {"leases": list() as leases}:
                return [_lease(each) for each in leases]
        raise ControlPlaneAway("it answers in a way that is not known")

    async def keys(self, instance: str, after: int, wait: int, former: KeySnapshot | None = None) -> ToldKeys | None:
        """The keys, as soon as their version is above `after` or a wallet is recalled; None: not within `wait` seconds.

        Raises:
            ControlPlaneAway, ControlPlaneRefuses
        """
        query = {"instance": instance, "after": str(after), "wait": str(wait)}
        content = await self._ask("GET", "keys", query=query, patience=wait + _PATIENCE)
        try:
            return None if content is None else await in_turns(key_snapshot.read(content, former))
        except InvalidSnapshot as error:
            raise ControlPlaneAway(f"its keys cannot be read: {error}") from None

    async def statement(self, wallet: str) -> Statement:
        """What is in a wallet that this upstream pays from; in any other one, nothing.

        Raises:
            ControlPlaneAway, ControlPlaneRefuses: the control plane is an older one.
        """
        match await self._call("GET", "wallet", query={"wallet": wallet}):
            case {
                "credits_nanodollars": int() as credited,
                "spent_nanodollars": int() as spent,
                "renews": str() as period,
                "renews_to_nanodollars": int() as amount,
                "renews_at": str() as at,
            }:
                return Statement(credited, spent, period, amount, at)
            case {"credits_nanodollars": int() as credited, "spent_nanodollars": int() as spent}:
                return Statement(credited, spent)
        raise ControlPlaneAway("it answers in a way that is not known")

    async def _call(
        self,
        method: str,
        verb: str,
        *,
        body: bytes | None = None,
        query: Mapping[str, str] | None = None,
        patience: float = _PATIENCE,
    ) -> Any:
        """The document of the answer; None: it has none (204)."""
        content = await self._ask(method, verb, body=body, query=query, patience=patience)
        try:
            return None if content is None else json.loads(content)
        except (ValueError, RecursionError):
            raise ControlPlaneAway("it answers with something that is not JSON") from None

    async def _ask(
        self,
        method: str,
        verb: str,
        *,
        body: bytes | None = None,
        query: Mapping[str, str] | None = None,
        patience: float,
    ) -> bytes | None:
        headers = self._headers if body is None else {**self._headers, "Content-Type": "application/json"}
        try:
            async with (
                asyncio.timeout(patience),
                self._session.request(
                    method,
                    self._base / "proxy/v1" / verb,
                    params=query,
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                ) as answer,
            ):
                content = await answer.read()
        except TimeoutError:
            raise ControlPlaneAway(f"no answer within {patience:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ControlPlaneAway(f"it cannot be reached: {type(error).__name__}") from None
        if answer.status == 204:
            return None
        if 400 <= answer.status < 500 and answer.status not in (408, 429):
            raise ControlPlaneRefuses(answer.status, _message(content))
        if answer.status != 200:
            raise ControlPlaneAway(f"it answers with status {answer.status}")
        return content


async def in_turns(work: Generator[None, None, T]) -> T:
    """Do work that yields now and then, and let the event loop do something else each time."""
    while True:
        try:
            next(work)
        except StopIteration as over:
            return over.value  # type: ignore[no-any-return]
        await asyncio.sleep(0)


class BackOff:
    """When to try again what the control plane did not answer, and the log lines about that: one each way."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._pause = 0.0
        self.problem: str | None = None
        """Why there was no answer last time."""

    def succeeded(self) -> None:
        """There was an answer."""
        if self._pause:
            log("control plane answers again", to=self._what)
        self.problem, self._pause = None, 0.0

    def failed(self, error: Exception) -> float:
        """There was none; the result is how many seconds to wait. They vary, so that the proxies do not ask in step."""
        if str(error) != self.problem:
            log("control plane does not answer", level=logging.WARNING, to=self._what, problem=str(error))
        self.problem = str(error)
        self._pause = min(max(2 * self._pause, _PAUSE), _LONGEST_PAUSE)
        return self._pause * random.uniform(0.75, 1)  # noqa: S311 - no secret


def _lease(document: Any) -> LeaseAnswer:
    match document:
        case {"wallet": str() as wallet, "granted_total": int() as granted_total, "balance": int() as balance}:
            spent_total = document.get("spent_total", 0)  # a backend does not tell that is older, during a rollout
            if isinstance(spent_total, int):
                return LeaseAnswer(wallet, granted_total, spent_total, balance)
    raise ControlPlaneAway("it answers in a way that is not known")


def _message(content: bytes) -> str:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    match document:
        case {"error": {"message": str(message)}}:
            return message[:_SHOWN]
    return "without a message"
