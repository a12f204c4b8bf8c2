"""The operator's API, under /admin/v1: accounts, keys, credits, usage, leases, and the ledger's upkeep.

Every operation but the catalogue and the description needs the operator's token. Everything that changes money may be
sent again: a credit has an id of the caller's choice, and a row that was rerated costs what it costs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from sqlalchemy import Connection

from goproxy.control_plane import names, request_reading, schemas
from goproxy.control_plane.answers import NotServed
from goproxy.control_plane.credentials import owner
from goproxy.control_plane.openapi import describe
from goproxy.control_plane.operations import Call, Operation, serve
from goproxy.control_plane.plane import ControlPlane
from goproxy.control_plane.store import accounts, keys, leases, renewals, rows, usage, wallets
from goproxy.control_plane.store.refusals import Conflict
from goproxy.control_plane.store.walk import Position
from goproxy.control_plane.upkeep import GZIP, Upkeep
from goproxy.core import wallet_name
from goproxy.core.keys import digest, new_key
from goproxy.timestamps import now


class AdminApi:
    """The routes under /admin/v1, but for the catalogue."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._store = plane.database

    def serve(self, app: web.Application) -> None:
        """Add the routes."""
        serve(app, self.operations(), self._admit)

    def operations(self) -> list[Operation]:
        """All that can be asked."""
        doc, upkeep = schemas, Upkeep(self._plane)
        return [
            Operation("GET", "/accounts", self.list_accounts, answer=doc.Accounts),
            Operation(
                "POST",
                "/accounts",
                self.create_account,
                body=doc.NewAccount,
                answer=doc.Account,
                status=201,
                conflicts=True,
            ),
            Operation("GET", "/accounts/{account}", self.show_account, answer=doc.Account),
            Operation("POST", "/accounts/{account}/disable", self.disable_account, answer=doc.Account),
            Operation("POST", "/accounts/{account}/enable", self.enable_account, answer=doc.Account),
            Operation(
                "POST",
                "/accounts/{account}/keys",
                self.create_key,
                body=doc.NewKey,
                answer=doc.KeyShownOnce,
                status=201,
                conflicts=True,
            ),
            Operation("GET", "/keys", self.list_keys, query=doc.OfAccount, answer=doc.Keys),
            Operation("GET", "/keys/{key}", self.show_key, answer=doc.Key),
            Operation("POST", "/keys/{key}/revoke", self.revoke_key, answer=doc.Key),
            Operation("POST", "/keys/{key}/set", self.set_key, body=doc.KeyChanges, answer=doc.Key, conflicts=True),
            Operation(
                "POST",
                "/keys/{key}/rotate",
                self.rotate_key,
                body=doc.Rotation,
                answer=doc.KeyShownOnce,
                status=201,
                conflicts=True,
            ),
            Operation("GET", "/wallets", self.list_wallets, query=doc.OfAccount, answer=doc.Wallets),
            Operation(
                "POST",
                "/credits",
                self.create_credit,
                body=doc.NewCredit,
                answer=doc.Credit,
                status=201,
                conflicts=True,
            ),
            Operation("POST", "/renewals", self.renew_wallet, body=doc.Renewal, answer=doc.Wallet, conflicts=True),
            Operation("GET", "/usage", self.sum_usage, query=doc.UsageAsked, answer=doc.UsageTable),
            Operation("GET", "/rows", self.list_rows, query=doc.RowsAsked, answer=doc.Rows),
            Operation("GET", "/leases", self.list_leases, answer=doc.Leases),
            Operation(
                "POST",
                "/leases/{instance}/retire",
                self.retire_instance,
                query=doc.RetireAsked,
                answer=doc.Retired,
                conflicts=True,
            ),
            Operation("POST", "/rerate", upkeep.rerate, body=doc.RerateAsked, answer=doc.Rerated, conflicts=True),
            Operation(
                "POST",
                "/reconcile",
                upkeep.reconcile,
                query=doc.ReconcileAsked,
                body=("text/csv", "application/json"),
                answer=doc.Reconciled,
            ),
            Operation("GET", "/backup", upkeep.make_backup, answer=GZIP),
            Operation(
                "POST",
                "/restore",
                upkeep.restore_backup,
                query=doc.RestoreAsked,
                body=(GZIP,),
                answer=doc.Restored,
                conflicts=True,
            ),
            Operation("GET", "/openapi.json", self.describe, answer=None, is_open=True),
            Operation("GET", "/catalogue", self.show_catalogue, answer=None, is_open=True),
        ]

    async def list_accounts(self, _: Call) -> schemas.Accounts:
        """All accounts."""
        found = await self._store.read("list accounts", accounts.all_of_them)
        return schemas.Accounts(accounts=[schemas.Account(**each) for each in found])

    async def create_account(self, call: Call) -> schemas.Account:
        """Make an account, with an empty wallet of its name."""
        new: schemas.NewAccount = call.body
        made = await self._store.run("create account", lambda store: accounts.create(store, new.name, new.note))
        return schemas.Account(**made)

    async def show_account(self, call: Call) -> schemas.Account:
        """An account."""
        found = await self._store.read("show account", lambda store: accounts.get(store, call.path["account"]))
        return schemas.Account(**found)

    async def disable_account(self, call: Call) -> schemas.Account:
        """Let none of its keys in any more, on any proxy, within a second.

        Its keys, credits and rows are kept.
        """
        name = call.path["account"]
        return schemas.Account(**await self._plane.change_keys("disable account", lambda s: accounts.disable(s, name)))

    async def enable_account(self, call: Call) -> schemas.Account:
        """Let the keys of a disabled account in again."""
        name = call.path["account"]
        return schemas.Account(**await self._plane.change_keys("enable account", lambda s: accounts.enable(s, name)))

    async def create_key(self, call: Call) -> schemas.KeyShownOnce:
        """Make a key of an account.

        The key is in this answer and nowhere else: only its digest is stored. A spending limit is the first credit of
        a wallet `key:<key id>`; requests of the key are held against it and against the account's wallet. Upstreams and
        models must be in the catalogue; a model may be called by an alias. A spending limit can renew.
        """
        new: schemas.NewKey = call.body
        key, account, ends = new_key(), call.path["account"], schemas.stored(new.expires_at)
        names.check_key(self._plane.catalogue.configs, new.upstreams, new.models)
        _check_end(ends)
        limits = keys.Limits(
            expires_at=ends,
            upstreams=new.upstreams,
            models=new.models,
            requests_per_minute=new.requests_per_minute,
            tokens_per_minute=new.tokens_per_minute,
            nanodollars=new.limit_nanodollars,
            renews=new.limit_renews,
        )
        made = await self._plane.change_keys(
            "create key",
            lambda store: keys.create(store, account, digest(key), keys.prefix(key), limits, name=new.name),
        )
        return schemas.KeyShownOnce(**made, key=key)

    async def list_keys(self, call: Call) -> schemas.Keys:
        """All keys, or those of an account."""
        asked: schemas.OfAccount = call.query
        await names.check_choice(self._plane, account=asked.account)
        found = await self._store.read("list keys", lambda store: keys.all_of_them(store, asked.account))
        return schemas.Keys(keys=[schemas.Key(**each) for each in found])

    async def show_key(self, call: Call) -> schemas.Key:
        """A key, without the key itself."""
        found = await self._store.read("show key", lambda store: keys.get(store, call.path["key"]))
        return schemas.Key(**found)

    async def revoke_key(self, call: Call) -> schemas.Key:
        """Let a key in no more, on any proxy, within a second; for good."""
        key = call.path["key"]
        return schemas.Key(**await self._plane.change_keys("revoke key", lambda store: keys.revoke(store, key)))

    async def set_key(self, call: Call) -> schemas.Key:
        """Change what a living key may do: on any proxy, within a second.

        What is left out stays; null takes a limit away. A spending limit may be less than what was spent or is held:
        running requests go on, what is free is asked back from the proxies, and nothing more is lent. One that is taken
        away renews no more.
        """
        key, changes = call.path["key"], call.body.changes
        _check_end(changes.get("expires_at"))
        if {"upstreams", "models"} & changes.keys():
            known = await self._store.read("look for names", lambda store: keys.get(store, key))
            names.check_change(self._plane.catalogue.configs, known, changes)
        done = await self._plane.change_keys("change key", lambda store: keys.change(store, key, changes))
        for instance in done.holders:
            self._plane.feed.recall(instance, [wallet_name.of_key(key)])
        return schemas.Key(**done.key)

    async def rotate_key(self, call: Call) -> schemas.KeyShownOnce:
        """Make a second key that may do what the first one may.

        Both are live until the first is revoked, or ends: at `old_expires_at`, or by itself if that is before. The
        second key may spend what the first one has left of its limit; of one that renews, until it does: then each of
        them has the whole limit.
        """
        rotation: schemas.Rotation = call.body
        key, first, ends = new_key(), call.path["key"], schemas.stored(rotation.old_expires_at)
        made = await self._plane.change_keys(
            "rotate key", lambda store: keys.rotate(store, first, digest(key), keys.prefix(key), ends)
        )
        return schemas.KeyShownOnce(**made, key=key)

    async def list_wallets(self, call: Call) -> schemas.Wallets:
        """All wallets, or those of an account, and where their credits are."""
        asked: schemas.OfAccount = call.query
        await names.check_choice(self._plane, account=asked.account)
        found = await self._store.read("list wallets", lambda store: wallets.show(store, asked.account))
        return schemas.Wallets(wallets=[schemas.Wallet(**each) for each in found])

    async def create_credit(self, call: Call) -> schemas.Credit:
        """Grant a credit to a wallet, or withdraw from its balance.

        A wallet `<account>/<name>` begins with its first credit, if an upstream pays from wallets of that name or
        `force` is true. Not more can be withdrawn than the balance has: what proxies were lent is not in it.
        """
        new: schemas.NewCredit = call.body
        amount = new.amount_nanodollars if new.kind == "grant" else -new.amount_nanodollars
        if new.id.startswith(wallets.OWN_ENTRIES):
            raise Conflict(f"{new.id!r}: ids that begin with {', '.join(wallets.OWN_ENTRIES)} are the store's own")

        paying = None if new.force else self._paying

        def work(store: Connection) -> dict[str, Any]:
            wallets.settle_in(store, new.wallet, paying)
            return wallets.credit(store, new.id, new.wallet, new.kind, amount, new.note)

        return schemas.Credit(**rows.credit_document(await self._store.run("credit", work)))

    async def renew_wallet(self, call: Call) -> schemas.Wallet:
        """Let a wallet renew: be filled up to an amount at the beginning of each day, week or month, in UTC.

        What it has beyond that stays. If it did not renew before it is filled up at once; another amount or period
        holds from the next one on. A key's limit renews by `limit_renews` of the key.
        """
        new: schemas.Renewal = call.body
        paying = None if new.force else self._paying
        if (key := wallet_name.key_of(new.wallet)) is not None:
            raise Conflict(f"{new.wallet!r} is a limit: it renews by `limit_renews` (`renews`, `--renews`) of {key}")
        if (new.period is None) != (new.amount_nanodollars is None):
            raise Conflict("give both period and amount_nanodollars, or null for both: then the wallet stops renewing")

        def work(store: Connection) -> dict[str, Any]:
            if new.period is None or new.amount_nanodollars is None:
                wallets.load(store, new.wallet)
                renewals.catch_up(store, new.wallet)
                renewals.stop(store, new.wallet)
            else:
                wallets.settle_in(store, new.wallet, paying)
                renewals.catch_up(store, new.wallet)
                renewals.begin(store, new.wallet, new.period, new.amount_nanodollars)
            (shown,) = wallets.show(store, wallet=new.wallet)
            return shown

        return schemas.Wallet(**await self._store.run("renew wallet", work))

    async def sum_usage(self, call: Call) -> schemas.UsageTable:
        """Requests, tokens and cost, summed up by account, key, upstream, model and day as asked."""
        asked: schemas.UsageAsked = call.query
        by = list(dict.fromkeys(asked.by))
        summary = usage.Summary(by, schemas.LINES)
        chosen = await names.resolved(self._plane, asked.chosen)
        async for lines in self._store.read_in_steps("sum usage", lambda s, after: usage.step(s, by, chosen, after)):
            summary.add(lines)
        found = summary.lines()
        if not found:
            await names.check_nothing_found(self._plane, chosen)
        return schemas.UsageTable(usage=[schemas.UsageLine(**line) for line in found], complete=summary.complete)

    async def list_rows(self, call: Call) -> schemas.Rows:
        """The ledger: requests and credits, the newest first."""
        asked: schemas.RowsAsked = call.query
        chosen = await names.resolved(self._plane, asked.chosen)
        position = None
        if asked.before is not None:
            moment, _, row_id = asked.before.partition("~")
            position = moment, row_id
        records: list[Any] = []

        def page(store: Connection, before: Position | None) -> tuple[list[Any], Position | None]:
            left = asked.limit - len(records)
            return rows.page(store, chosen, kind=asked.kind, before=before, limit=left)

        async for found_now in self._store.read_in_steps("list rows", page, position):
            records += found_now
            if len(records) == asked.limit:
                break
        if not records and asked.before is None:
            await names.check_nothing_found(self._plane, chosen)
        found = await asyncio.to_thread(rows.documents, records)
        last = found[-1] if len(found) == asked.limit else None
        return schemas.Rows(
            rows=[_of_ledger(each) for each in found],
            next=None if last is None else f"{last['received_at']}~{last['id']}",
        )

    async def list_leases(self, _: Call) -> schemas.Leases:
        """What proxies were lent of which wallets."""
        found = await self._store.read("list leases", leases.all_of_them)
        return schemas.Leases(leases=[schemas.Lease(**each) for each in found])

    async def retire_instance(self, call: Call) -> schemas.Retired:
        """Take back what a proxy instance was lent and did not spend.

        For an instance that is gone for good with its journal: what it spent and never reported is then lost. Refused
        while it may live, unless `force` is true: a proxy that is cut off from here spends what it was lent for as long
        as it believes its keys (`staleness_seconds` of its upstream) and its requests take.
        """
        asked: schemas.RetireAsked = call.query
        instance = call.path["instance"]
        plane = self._plane
        hearing = None if asked.force else leases.Hearing(plane.listening_since, plane.catalogue.serves_on)
        await self._plane.note_heard()
        returned = await self._store.run("retire instance", lambda store: leases.retire(store, instance, hearing))
        self._plane.feed.forget(instance)
        amounts = [schemas.Returned(wallet=each, amount_nanodollars=amount) for each, amount in returned.items()]
        return schemas.Retired(instance=instance, returned=amounts)

    async def describe(self, _: Call) -> web.Response:
        """This description."""
        return web.json_response(describe(self.operations()))

    async def show_catalogue(self, _: Call) -> web.Response:
        """The models of all upstreams with their prices."""
        return web.json_response(self._plane.catalogue.document())

    @property
    def _paying(self) -> set[str]:
        """What wallets are called that upstreams have of their own."""
        return {config.wallet for config in self._plane.catalogue.configs if config.wallet is not None}

    def _admit(self, request: web.Request) -> None:
        known = self._plane.operator.digest()
        if known is None:
            raise NotServed(503, "the admin API is off: there is no operator token (OPERATOR_TOKEN_PATH)")
        if owner(request_reading.bearer(request), {known: "operator"}) is None:
            raise request_reading.unauthorized()


def _check_end(ends: str | None) -> None:
    if ends is not None and ends <= now():
        raise NotServed(400, f"expires_at: {ends} is past, and the key would never be let in")


def _of_ledger(found: Mapping[str, Any]) -> schemas.Row | schemas.Credit:
    return schemas.Row(**found) if found["kind"] == rows.REQUEST else schemas.Credit(**found)
