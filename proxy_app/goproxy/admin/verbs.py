"""`goproxy admin`: the verbs of the admin API on a command line, with tables for people and `--json` for programs.

The operator's token comes from the file that OPERATOR_TOKEN_FILE names, or is asked for on standard input. It is never
an argument: arguments show in the list of processes and in the shell's history.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from goproxy.admin.client import AdminClient, AdminError, AnswerLost, read_token
from goproxy.admin.tables import amount, nanodollars, table
from goproxy.core.keys import PREFIX
from goproxy.core.usage import TOKENS

_URL = "http://127.0.0.1:8000"

_ACCOUNT = ("name", "origin", "created_at", "disabled_at", "note")
_KEY = ("id", "account", "prefix", "name", "origin", "created_at", "expires_at", "revoked_at", "upstreams", "models")
_KEY_LIMITS = ("requests_per_minute", "tokens_per_minute", "limit_nanodollars", "limit_renews")
_WALLET = (
    "id",
    "credits_nanodollars",
    "balance_nanodollars",
    "held_nanodollars",
    "spent_nanodollars",
    "renews",
    "renews_to_nanodollars",
    "renews_at",
)
_CREDIT = ("id", "wallet", "kind", "amount_nanodollars", "note", "received_at")
_ROW = ("received_at", "kind", "id", "account", "upstream", "model", "settlement", "tokens", "amount_nanodollars")
_LEASE = ("wallet", "upstream", "instance", "held_nanodollars", "spent_total_nanodollars", "last_seen", "retired_at")

_ADDENDS = tuple(kind for kind in TOKENS if kind != "reasoning")
"""The kinds of tokens that add up to all of a request's: reasoning is a part of its output."""

_LIMITS = {
    "expires": "expires_at",
    "upstream": "upstreams",
    "model": "models",
    "requests_per_minute": "requests_per_minute",
    "tokens_per_minute": "tokens_per_minute",
    "limit": "limit_nanodollars",
    "renews": "limit_renews",
}
"""What a key may do: options, and what the API calls them."""

_KEY_HELP = "its id, or the first characters that `key list` shows of it"

_NEVER = "never"
_OF_THE_EDGE = re.compile(r"[0-9a-f]{32}")

Answer = tuple[Any, str] | tuple[Any, str, str]
"""The answer as a document, and as people read it; and what of it a job must not pass over, if there is anything."""

Verb = Callable[[AdminClient, argparse.Namespace], Answer]


def add_verbs(parser: argparse.ArgumentParser) -> None:
    """Give `goproxy admin` its verbs."""
    parser.add_argument("--url", help=f"of the backend; default: BACKEND_URL, or {_URL}")
    parser.add_argument("--json", action="store_true", help="print the API's own answer")
    nouns = parser.add_subparsers(required=True, metavar="NOUN")
    _add_accounts(_verbs(nouns, "account", "who pays"))
    _add_keys(_verbs(nouns, "key", "API keys"))
    _add_credits(_verbs(nouns, "credit", "what accounts may spend"))

    usage = _verb(nouns, "usage", _usage, "requests, tokens and cost, summed up")
    usage.add_argument("--by", default="account,upstream,model", help="axes: account,key,upstream,model,day")
    _add_choice(usage)
    rows = _verb(nouns, "rows", _rows, "the ledger, the newest first")
    _add_choice(rows)
    rows.add_argument("--id", help="of one request, as its client got it in X-Request-Id; or of a credit")
    rows.add_argument("--upstream-request-id", metavar="ID", help="the provider's; looked for in the whole ledger")
    rows.add_argument("--kind", help="request, grant, withdrawal, opening, limit, renewal or rerate")
    rows.add_argument("--limit", type=int, default=50)
    rows.add_argument("--before", help="`next` of the page before")

    leases = _verbs(nouns, "leases", "what proxies were lent")
    _verb(leases, "list", _leases, "all leases")
    retire = _verb(leases, "retire", _retire, "take back what an instance that is gone for good did not spend")
    retire.add_argument("instance")
    retire.add_argument(
        "--force", action="store_true", help="though it may live, be it cut off: if so, what it holds is lent twice"
    )

    rerate = _verb(nouns, "rerate", _rerate, "price rows again by today's price book")
    _add_choice(rerate)
    rerate.add_argument("--multiplier", default="as_billed", help="a number, `current`, or `as_billed` (default)")
    rerate.add_argument("--apply", action="store_true", help="settle the differences; else only show them")
    reconcile = _verb(
        nouns,
        "reconcile",
        _reconcile,
        "hold the ledger against a provider's usage export; exit code 1: requests differ or are missing",
    )
    reconcile.add_argument("file", type=Path, help="CSV or JSON")
    reconcile.add_argument("--upstream", required=True)
    reconcile.add_argument("--since", metavar="DAY")
    reconcile.add_argument("--until", metavar="DAY")

    backup = _verb(nouns, "backup", _backup, "copy the whole store into a file")
    backup.add_argument("file", type=Path)
    restore = _verb(nouns, "restore", _restore, "put a backup in the place of the store")
    restore.add_argument("file", type=Path)
    restore.add_argument("--replace", action="store_true", help="even though there is something stored")


def run(chosen: argparse.Namespace, environment: Mapping[str, str]) -> int:
    """Run one verb and print its answer.

    Raises:
        AdminError: it was not done, or something was found that ends with exit code 1.
    """
    for name, value in vars(chosen).items():
        texts = [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]
        if any("\ud800" <= each <= "\udfff" for each in "".join(texts)):  # how Python writes what is no UTF-8
            raise AdminError(f"{name}: {value!r} is not UTF-8")
    url = chosen.url or environment.get("BACKEND_URL") or _URL
    document, text, *found = chosen.admin_verb(AdminClient(url, _token(environment)), chosen)
    print(json.dumps(document, indent=2) if chosen.json else text, flush=True)
    if found:
        raise AdminError(found[0])
    return 0


def _token(environment: Mapping[str, str]) -> str:
    if path := environment.get("OPERATOR_TOKEN_FILE"):
        return read_token(Path(path))
    with suppress(EOFError, ValueError):
        token = getpass.getpass("Operator token: ") if sys.stdin.isatty() else sys.stdin.readline()
        if token := token.strip():
            return token
    raise AdminError(
        "no operator token came on standard input, which `docker exec` passes on with --interactive alone; "
        "or set OPERATOR_TOKEN_FILE to a file that has it"
    )


def _verbs(nouns: Any, name: str, text: str) -> Any:
    return nouns.add_parser(name, help=text).add_subparsers(required=True, metavar="VERB")


def _verb(verbs: Any, name: str, verb: Verb, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text)
    parser.set_defaults(admin_verb=verb)
    return parser


def _add_accounts(verbs: Any) -> None:
    add = _verb(verbs, "add", _account_add, "make an account")
    add.add_argument("account")
    add.add_argument("--note", default="")
    _verb(verbs, "list", _account_list, "all accounts")
    for name, verb, text in (
        ("show", _account_show, "an account with its keys and wallets"),
        ("disable", _account_disable, "let none of its keys in any more"),
        ("enable", _account_enable, "let them in again"),
    ):
        _verb(verbs, name, verb, text).add_argument("account")


def _add_keys(verbs: Any) -> None:
    add = _verb(verbs, "add", _key_add, "make a key, and show it once")
    add.add_argument("account")
    add.add_argument("--name", default="")
    _add_limits(add)
    _verb(verbs, "list", _key_list, "keys, without the keys themselves").add_argument("account", nargs="?")
    _verb(verbs, "revoke", _key_revoke, "let a key in no more").add_argument("key", metavar="KEY", help=_KEY_HELP)
    change = _verb(verbs, "set", _key_set, "change what a key may do; what is not named stays")
    change.add_argument("key", metavar="KEY", help=_KEY_HELP)
    _add_limits(change)
    change.add_argument("--without", default="", metavar="LIMITS", help=f"that it has no more: {','.join(_LIMITS)}")
    rotate = _verb(verbs, "rotate", _key_rotate, "make a second key like it, and show that once")
    rotate.add_argument("key", metavar="KEY", help=_KEY_HELP)
    rotate.add_argument("--old-expires", metavar="TIME", help="when the first one ends, unless it ends before")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--expires", metavar="TIME", help="such as 2027-01-31T00:00:00Z")
    parser.add_argument("--upstream", action="append", help="the only one it may use; may be repeated")
    parser.add_argument("--model", action="append", help="the only one it may use; may be repeated")
    parser.add_argument("--requests-per-minute", type=int)
    parser.add_argument("--tokens-per-minute", type=int)
    parser.add_argument("--limit", type=_dollars, metavar="USD", help="what it may spend in all")
    parser.add_argument("--renews", metavar="PERIOD", help="when it may spend that again: each day, week or month")


def _add_credits(verbs: Any) -> None:
    for kind, text in (("grant", "add to a wallet"), ("withdraw", "take from a wallet's balance")):
        verb = _verb(verbs, kind, _credit, text)
        verb.set_defaults(kind="grant" if kind == "grant" else "withdrawal")
        verb.add_argument("wallet", help="an account, <account>/<wallet>, or key:<key id>")
        verb.add_argument("amount", type=_dollars, metavar="USD")
        verb.add_argument("--note", default="")
        verb.add_argument("--id", help="the same id twice is one credit")
        verb.add_argument("--force", action="store_true", help="also to a wallet that no upstream pays from yet")
    renew = _verb(verbs, "renew", _renew, "fill a wallet up with each day, week or month, in UTC; and now, at first")
    renew.add_argument("wallet", help="an account, or <account>/<wallet>")
    renew.add_argument("amount", type=_dollars, metavar="USD", nargs="?", help="that it has again; with never: none")
    renew.add_argument("--every", required=True, metavar="PERIOD", help="day, week, month or never")
    renew.add_argument("--force", action="store_true", help="also a wallet that no upstream pays from yet")
    _verb(verbs, "list", _wallets, "where the credits are").add_argument("account", nargs="?")


def _add_choice(parser: argparse.ArgumentParser) -> None:
    for name in ("account", "key", "upstream", "settlement"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--model", help="its id, or an alias")
    for name in ("since", "until"):
        parser.add_argument(f"--{name}", metavar="DAY", help="such as 2026-11-23, in UTC")


def _choice(chosen: argparse.Namespace) -> dict[str, Any]:
    names = ("account", "key", "upstream", "model", "settlement", "since", "until")
    return {name: getattr(chosen, name) for name in names}


def _dollars(text: str) -> int:
    try:
        return nanodollars(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def _account_add(api: AdminClient, chosen: argparse.Namespace) -> tuple[Any, str]:
    made = api.post("/accounts", {"name": chosen.account, "note": chosen.note})
    return made, table([made], _ACCOUNT)


def _account_list(api: AdminClient, _: argparse.Namespace) -> tuple[Any, str]:
    found = api.get("/accounts")
    return found, table(found["accounts"], _ACCOUNT)


def _account_show(api: AdminClient, chosen: argparse.Namespace) -> tuple[Any, str]:
    account = api.get(f"/accounts/{_path(chosen.account)}")
    keys = api.get("/keys", {"account": chosen.account})["keys"]
    wallets = api.get("/wallets", {"account": chosen.account})["wallets"]
    text = "\n\n".join((table([account], _ACCOUNT), table(wallets, _WALLET), table(keys, (*_KEY, *_KEY_LIMITS))))
    return account | {"keys": keys, "wallets": wallets}, text


def _account_disable(api: AdminClient, chosen: argparse.Namespace) -> tuple[Any, str]:
    account = api.post(f"/accounts/{_path(chosen.account)}/disable")
    return account, table([account], _ACCOUNT)


def _account_enable(api: AdminClient, chosen: argparse.Namespace) -> tuple[Any, str]:
    account = api.post(f"/accounts/{_path(chosen.account)}/enable")
    return account, table([account], _ACCOUNT)


def _key_add(api: AdminClient, chosen: argparse.Namespace) -> tuple[Any, str]:
    given = {field: value for option, field in _LIMITS.items() if (value := getattr(chosen, option)) is not None}
    return _once(api.post(f"/accounts/{_path(chosen.account)}/keys", {"name": chosen.name} | given))


def _key_list(api: AdminClient, chosen: argparse.Namespace) -> tuple[Any, str]:
    found = api.get("/keys", {"account": chosen.account})
    return found, table(found["keys"], (*_KEY, *_KEY_LIMITS))


def _key_revoke(api: AdminClient, chosen: argparse.Namespace) -> tuple[Any, str]:
    key = api.post(f"/keys/{_path(_key_id(api, chosen.key))}/revoke")
    return key, table([key], _KEY)


def _key_set(api: AdminClient, chosen: argparse.Namespace) -> tuple[Any, str]:
    given = {option: value for option in _LIMITS if (value := getattr(chosen, option)) is not None}
    without = [each.replace("-", "_") for each in chosen.without.split(",") if each]
    for each in without:
        if each not in _LIMITS:
            raise AdminError(f"--without: {each!r} is not one of {', '.join(_LIMITS)}")
        if each in given:
            raise AdminError(f"{each}: it cannot be set and taken away at once")
    if not given and not without:
        raise AdminError(f"nothing would change: give one of {', '.join(_LIMITS)}, or --without")
    changes = {_LIMITS[option]: value for option, value in (dict.fromkeys(without) | given).items()}
    key = api.post(f"/keys/{_path(_key_id(api, chosen.key))}/set", changes)
    return key, table([key], (*_KEY, *_KEY_LIMITS))


def _key_rotate(api: AdminClient, chosen: argparse.Namespace) -> tuple[Any, str]:
    key_id = _key_id(api, chosen.key)
    return _once(api.post(f"/keys/{_path(key_id)}/rotate", {"old_expires_at": chosen.old_expires}))


def _key_id(api: AdminClient, text: str) -> str:
    """The id of a key that is called by it, or by its first characters as they are shown.

    Raises:
        AdminError: several keys are shown so, or none; what was typed may be a key itself, and is not repeated.
    """
    if not text.startswith(PREFIX):
        return text
    found = [key["id"] for key in api.get("/keys")["keys"] if key["prefix"] == text]
    if len(found) == 1:
        return str(found[0])
    if found:
        raise AdminError(f"several keys are shown so; their ids are {', '.join(found)}")
    raise AdminError("no key is shown so: give its id, or the whole of its PREFIX, as they stand in `key list`")


def _once(made: dict[str, Any]) -> tuple[Any, str]:
    return made, f"{table([made], (*_KEY, *_KEY_LIMITS))}\n\nThe key, shown this once:\n{made['key']}"


def _credit(api: AdminClient, chosen: argparse.Namespace) -> tuple[Any, str]:
    new = {
        "id": chosen.id or f"{chosen.kind}_{secrets.token_hex(8)}",
        "wallet": chosen.wallet,
        "kind": chosen.kind,
        "amount_nanodollars": chosen.amount,
        "note": chosen.note,
        "force": chosen.force,
    }
    try:
        made = api.post("/credits", new)
    except AnswerLost as problem:
        raise AdminError(f"{problem}; trying again with --id {new['id']} cannot do it twice") from None
    return made, table([made], _CREDIT)


def _renew(api: AdminClient, chosen: argparse.Namespace) -> tuple[Any, str]:
    if (chosen.every == _NEVER) != (chosen.amount is None):
        raise AdminError(f"--every {chosen.every} takes {'no' if chosen.every == _NEVER else 'an'} amount")
    period = None if chosen.every == _NEVER else chosen.every
    new = {"wallet": chosen.wallet, "period": period, "amount_nanodollars": chosen.amount, "force": chosen.force}
    wallet = api.post("/renewals", new)
    return wallet, table([wallet], _WALLET)


def _wallets(api: AdminClient, chosen: argparse.Namespace) -> tuple[Any, str]:
    found = api.get("/wallets", {"account": chosen.account})
    return found, table(found["wallets"], _WALLET)


def _usage(api: AdminClient, chosen: argparse.Namespace) -> tuple[Any, str]:
    axes = [axis for axis in chosen.by.split(",") if axis]
    found = api.get("/usage", {"by": ",".join(axes) or None, **_choice(chosen)})
    text = table(found["usage"], (*axes, "requests", *_ADDENDS, "web_search", "cost_nanodollars"))
    return found, text if found["complete"] else f"{text}\nThere are more lines: choose fewer days."


def _rows(api: AdminClient, chosen: argparse.Namespace) -> Answer:
    names = ("id", "upstream_request_id", "kind", "limit", "before")
    found = api.get("/rows", {**_choice(chosen), **{name: getattr(chosen, name) for name in names}})
    is_of_one = chosen.id or chosen.upstream_request_id
    text = table([_line(row) for row in found["rows"]], (*_ROW, "terms", "outcome", "flags") if is_of_one else _ROW)
    if is_of_one and not found["rows"]:
        return found, text, _unfound(chosen.id, chosen.upstream_request_id)
    return found, text if found["next"] is None else f"{text}\nOlder ones: --before {found['next']}"


def _unfound(row_id: str | None, upstream_request_id: str | None) -> str:
    if row_id is None:
        return f"no row that is so chosen has the provider's id {upstream_request_id!r}"
    told = f"no row that is so chosen has the id {row_id!r}"
    if _OF_THE_EDGE.fullmatch(row_id):
        return f"{told}: one of 32 hexadecimal digits is the edge's own; look for it in `docker logs trollllm-edge`"
    return f"{told}: what was refused has no row, nor what goes on; look for it in `docker logs goproxy-<name>`"


def _line(row: dict[str, Any]) -> dict[str, Any]:
    """A row for the table: what was charged below 0, what was credited above."""
    if row["kind"] != "request":
        return row
    cost = row["cost_nanodollars"] + row["adjustment_nanodollars"]
    usage = row["usage"]
    return row | {"amount_nanodollars": -cost, "tokens": sum(usage[kind] for kind in _ADDENDS)}


def _leases(api: AdminClient, _: argparse.Namespace) -> tuple[Any, str]:
    found = api.get("/leases")
    return found, table(found["leases"], _LEASE)


def _retire(api: AdminClient, chosen: argparse.Namespace) -> tuple[Any, str]:
    query = {"force": "true" if chosen.force else None}
    done = api.post(f"/leases/{_path(chosen.instance)}/retire", query=query)
    return done, table(done["returned"], ("wallet", "amount_nanodollars"))


def _rerate(api: AdminClient, chosen: argparse.Namespace) -> tuple[Any, str]:
    asked = {name: value for name, value in _choice(chosen).items() if value is not None}
    done = api.post("/rerate", asked | {"multiplier": chosen.multiplier, "apply": chosen.apply}, seconds=None)
    text = table(done["differences"], ("id", "account", "before_nanodollars", "after_nanodollars"))
    sums = f"{done['rows']} rows, {done['differing']} differ by {amount(done['difference_nanodollars'])} USD"
    unpriced = f", {done['unpriced']} have no price today" if done["unpriced"] else ""
    applied = "settled" if done["applied"] else "nothing was changed: add --apply to settle them"
    return done, f"{text}\n{sums}{unpriced}; {applied}"


def _reconcile(api: AdminClient, chosen: argparse.Namespace) -> Answer:
    query = {"upstream": chosen.upstream, "since": chosen.since, "until": chosen.until}
    media_type = "application/json" if chosen.file.suffix == ".json" else "text/csv"
    with _opened(chosen.file) as file:
        found = api.send("/reconcile", file, media_type, query)
    left_out = found["left_out"]
    lines = [f"matched     {found['matched']}"]
    for name, meaning in (
        ("differing", "in both, and counted otherwise"),
        ("missing", "in the export, not in the ledger"),
        ("extra", "in the ledger, not in the export"),
        ("unnamed", "rows without a request id of the provider"),
    ):
        lines += [f"{name:<11} {len(found[name]) + left_out[name]}  ({meaning})", *map(_difference, found[name])]
        lines += [f"  and {left_out[name]} more: choose fewer days to see them"] if left_out[name] else []
    wrong = {name: len(found[name]) + left_out[name] for name in ("differing", "missing")}
    if not any(wrong.values()):
        return found, "\n".join(lines)
    told = ", ".join(f"{count} {name}" for name, count in wrong.items())
    return found, "\n".join(lines), f"ledger and export do not agree: {told}"


def _difference(each: Any) -> str:
    if isinstance(each, str):
        return f"  {each}"
    return f"  {each['request_id']}: ledger {each['ledger']}, export {each['export']}"


def _backup(api: AdminClient, chosen: argparse.Namespace) -> tuple[Any, str]:
    """Written beside, synced, then renamed: a file of this name is a whole backup."""
    if not chosen.file.name:
        raise AdminError(f"{chosen.file}: expected the name of a file")
    beside = chosen.file.with_name(f"{chosen.file.name}.partial")
    try:
        if chosen.file.exists() and not chosen.file.is_file():  # what a device or a directory has is not to be replaced
            raise AdminError(f"{chosen.file}: is no regular file, and nothing else is replaced by a backup")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                api.receive("/backup", file, "application/gzip")
                file.flush()
                os.fsync(file.fileno())
            beside.rename(chosen.file)
        finally:
            with suppress(OSError):
                beside.unlink()
        size = chosen.file.stat().st_size
    except OSError as error:
        raise AdminError(f"{beside}: cannot be written: {error.strerror}") from None
    return {"file": str(chosen.file), "bytes": size}, f"{chosen.file}: {size} bytes"


def _restore(api: AdminClient, chosen: argparse.Namespace) -> tuple[Any, str]:
    query = {"replace": "true" if chosen.replace else None}
    with _opened(chosen.file) as file:
        done = api.send("/restore", file, "application/gzip", query)
    return done, table([{"table": name, "records": n} for name, n in done["records"].items()], ("table", "records"))


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise AdminError(f"{path}: cannot be read: {error.strerror}") from None


def _path(name: str) -> str:
    return quote(name, safe="")
