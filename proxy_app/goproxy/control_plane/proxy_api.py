"""What the proxies ask of the control plane: to take their rows, to be lent money, to be told keys and credit.

Each upstream's proxies have a token of their own; with it they speak for that upstream alone: they are lent and charge
the wallets that it pays from, and hear of the keys that may be used there (`store.authorization`). Everything here may
be sent again when its answer was lost: rows are known by their ids, calls for leases by their numbers.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, Field, StringConstraints
from sqlalchemy import Connection

from goproxy.control_plane import request_reading
from goproxy.control_plane.answers import NotServed
from goproxy.control_plane.credentials import owner
from goproxy.control_plane.plane import ControlPlane
from goproxy.control_plane.schemas import INSTANCE, Instance, Upstream
from goproxy.control_plane.store import authorization, leases, renewals, rows, wallets
from goproxy.core.lease import MOST, WALLETS_PER_CALL
from goproxy.core.ledger import ROWS_PER_POST, InvalidRow, Row
from goproxy.observe import log

ROWS_LIMIT = 16 * 1024 * 1024
"""Bytes of one post of rows."""

_REMEMBERED = 100_000
"""So many rejected rows, and so many withheld wallets, are known again, not to be told each time that they come."""

_LEASES_LIMIT = 256 * 1024
_LONGEST_POLL = 60

_WalletName = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,200}$")]


class LeaseAsked(BaseModel):
    """See `core.lease`."""

    wallet: _WalletName
    known_total: Annotated[int, Field(ge=0, le=MOST)]
    want: Annotated[int, Field(ge=0, le=MOST)]


class LeasesAsked(BaseModel):
    """One call for leases."""

    instance: Instance
    upstream: Upstream
    sequence: Annotated[int, Field(ge=0, le=MOST)]
    leases: Annotated[list[LeaseAsked], Field(max_length=WALLETS_PER_CALL)]


class KeysAsked(BaseModel):
    """One poll for news of the keys."""

    instance: Instance
    after: Annotated[int, Field(ge=0)] = 0
    wait: Annotated[int, Field(ge=0)] = 25


class WalletAsked(BaseModel):
    """A look into a wallet."""

    wallet: _WalletName


class ProxyApi:
    """The routes under /proxy/v1."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._rejected: set[int] = set()
        self._withheld: set[tuple[str, str]] = set()

    def serve(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_post("/proxy/v1/rows", self.take_rows, name="take_rows")
        app.router.add_post("/proxy/v1/leases", self.lend, name="lend")
        app.router.add_route("GET", "/proxy/v1/keys", self.tell_keys, name="tell_keys")
        app.router.add_route("GET", "/proxy/v1/wallet", self.tell_wallet, name="tell_wallet")

    async def take_rows(self, request: web.Request) -> web.Response:
        """Keep rows of the ledger; which of them need not be sent again, and which never can be kept."""
        upstream = self._caller(request)
        instance, posted = _posted(await request_reading.body_of(request, ROWS_LIMIT), upstream)
        sound: list[Row] = []
        rejected: list[dict[str, Any]] = []
        for item in posted:
            try:
                sound.append(_row(item, upstream))
            except InvalidRow as problem:
                rejected.append({"id": item.get("id") if isinstance(item, dict) else None, "reason": str(problem)})
        scope = self._plane.catalogue.scope_of(upstream)

        def work(store: Connection) -> tuple[list[Row], list[Row], dict[str, str]]:
            kept, problems = authorization.examine(store, scope, sound)
            return rows.ingest(store, instance, upstream, kept), kept, problems

        async def keep() -> tuple[list[Row], dict[str, str]]:
            new, kept, problems = await self._plane.database.run("take rows", work)
            self._plane.metrics.came(new)  # once, also where the proxy is gone by now: posted again they are not new
            return kept, problems

        kept, problems = await self._plane.see_through(keep())
        rejected += [{"id": id_, "reason": problem} for id_, problem in problems.items()]
        self._tell_of_rejected(upstream, rejected)
        return web.json_response({"accepted": [row.id for row in kept], "rejected": rejected})

    async def lend(self, request: web.Request) -> web.Response:
        """Lend parts of wallets. Where one has not enough, the other instances are asked for what they do not use."""
        upstream = self._caller(request)
        asked = request_reading.document(LeasesAsked, await request_reading.body_of(request, _LEASES_LIMIT))
        _is_own(asked.upstream, upstream)
        asks = [leases.Ask(each.wallet, each.known_total, each.want) for each in asked.leases]
        if len({ask.wallet for ask in asks}) != len(asks):
            raise NotServed(400, "leases: a wallet stands there twice")
        scope = self._plane.catalogue.scope_of(upstream)

        def work(store: Connection) -> tuple[leases.Lent, set[str]]:
            withheld = authorization.withheld(store, scope, {ask.wallet for ask in asks})
            return leases.lend(store, asked.instance, upstream, asked.sequence, asks, withheld), withheld

        lent, withheld = await self._plane.database.run("lend", work)
        self._tell_of_withheld(upstream, {ask.wallet for ask in asks if ask.want} & withheld)
        for instance, idle in lent.idle.items():
            self._plane.feed.recall(instance, idle)
        if lent.refused:
            self._plane.metrics.refused(upstream, len(lent.refused))
        return web.json_response({"leases": [asdict(grant) for grant in lent.grants]})

    async def tell_keys(self, request: web.Request) -> web.Response:
        """The live keys of the caller's upstream, as soon as the version of all is another than it knows.

        And the wallets that it should give back.
        """
        upstream = self._caller(request)
        asked = request_reading.query(request, KeysAsked)
        news = await self._plane.feed.wait(asked.instance, upstream, asked.after, min(asked.wait, _LONGEST_POLL))
        if news is None:
            return web.Response(status=204)
        return web.Response(body=news.to_json(), content_type="application/json", charset="utf-8")

    async def tell_wallet(self, request: web.Request) -> web.Response:
        """What is in a wallet that the caller's upstream pays from; any other one is as one that there is not."""
        upstream = self._caller(request)
        wallet = request_reading.query(request, WalletAsked).wallet
        scope = self._plane.catalogue.scope_of(upstream)

        def work(store: Connection) -> dict[str, Any]:
            if authorization.withheld(store, scope, {wallet}):
                return {"credits_nanodollars": 0, "spent_nanodollars": 0} | renewals.NONE
            held = wallets.find(store, wallet)
            credit = {"credits_nanodollars": held.credits, "spent_nanodollars": held.spent}
            return credit | renewals.renewal_of(store, wallet)

        return web.json_response(await self._plane.database.read("look into a wallet", work))

    def _tell_of_rejected(self, upstream: str, rejected: Sequence[Mapping[str, Any]]) -> None:
        """Each row once: its proxy posts it again and again."""
        news = {_digest(upstream, each): str(each["reason"]) for each in rejected}
        news = {digest: reason for digest, reason in news.items() if digest not in self._rejected}
        if not news:
            return
        if len(self._rejected) > _REMEMBERED:
            self._rejected.clear()
        self._rejected.update(news)
        reasons = sorted(set(news.values()))
        log("rows rejected", level=logging.ERROR, upstream=upstream, rows=len(news), reasons=reasons[:5])
        self._plane.metrics.rejected(upstream, len(news))

    def _tell_of_withheld(self, upstream: str, wallets: Iterable[str]) -> None:
        """Each wallet once: an honest proxy asks for none of them, but for a moment around a change."""
        news = sorted(wallet for wallet in wallets if (upstream, wallet) not in self._withheld)
        if not news:
            return
        if len(self._withheld) > _REMEMBERED:
            self._withheld.clear()
        self._withheld.update((upstream, wallet) for wallet in news)
        log("not lent: the upstream does not pay from it", level=logging.ERROR, upstream=upstream, wallets=news[:5])

    def _caller(self, request: web.Request) -> str:
        """The upstream whose proxy is calling.

        Raises:
            NotServed: it is nobody's.
        """
        token = request_reading.bearer(request)
        digests = self._plane.proxies.digests()
        if not digests:
            raise NotServed(503, "no proxy has a token here: PROXY_TOKENS_PATH has no file")
        upstream = owner(token, digests)
        if upstream is None:
            raise request_reading.unauthorized()
        return upstream


def _posted(body: bytes, upstream: str) -> tuple[str, list[Any]]:
    """Instance and rows of a post. Its rows are looked at one by one: none is lost for another's sake.

    Raises:
        NotServed: it is no such post.
    """
    try:
        document = json.loads(body, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        raise NotServed(400, "the body is not valid JSON") from None
    if not isinstance(document, dict) or not isinstance(document.get("rows"), list):
        raise NotServed(400, "the body must be an object with instance, upstream and a list of rows")
    instance, posted = document.get("instance"), document["rows"]
    if not isinstance(instance, str) or not re.fullmatch(INSTANCE, instance):
        raise NotServed(400, "instance must be of 1 to 64 letters, digits, _ or -")
    _is_own(document.get("upstream"), upstream)
    if len(posted) > ROWS_PER_POST:
        raise NotServed(413, f"more than {ROWS_PER_POST} rows")
    return instance, posted


def _row(item: Any, upstream: str) -> Row:
    """A row that can be kept.

    Raises:
        InvalidRow: it cannot.
    """
    row = Row.from_json(item)
    if problem := rows.problem_of(row, upstream):
        raise InvalidRow(problem)
    return row


def _digest(upstream: str, rejected: Mapping[str, Any]) -> int:
    """Which row was rejected; of those without an id, those with the same reason are one."""
    return hash((upstream, str(rejected["id"]), rejected["reason"] if rejected["id"] is None else None))


def _is_own(named: Any, upstream: str) -> None:
    if named != upstream:
        raise NotServed(403, f"this token is of a proxy of {upstream}")
