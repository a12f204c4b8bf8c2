"""Checks everything that an operator wrote, before anything is touched, and normalises the upstreams.

Pure Python: no Ansible, no network. In: the variables, templated. Out: `goproxy_upstreams`, which carries no secret,
and every problem that was found, at once.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

from . import price_book as book
from . import role_options, secret, site
from .field import Field, Problem, listed, nearest, shown
from .names import endpoint_fault, plain_url, read_domain

VARIABLE_PREFIX = "goproxy_upstream__"
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
BACKEND = "backend"  # its data and its release stand beside those of the upstreams
UID_BASE = 10000  # uid of an upstream's container: this and its port

REQUIRED = {
    "domain": 'give the domain that clients use, like "chat.{{ gateway_zone }}"',
    "port": "give a port that no other upstream has, like 8004",
    "api_key": "give the provider's key, from the vault",
    "endpoints": "give the URL of at least one protocol (anthropic, openai)",
    "multiplier_band": "give the lowest and the highest multiplier, like [1.04, 1.1]",
    "models": "give at least one model of goproxy_price_book, like claude-opus-4-5: {multiplier: 1.08}",
}
OPTIONAL = (
    "chat_limit",
    "disconnect",
    "include_usage",
    "max_body_mib",
    "processes",
    "staleness_seconds",
    "timeouts",
    "ttl",
    "wallet",
)
DEFAULT_STALENESS_SECONDS = 3600
MOST_STALENESS_SECONDS = 7 * 86400
DEFAULT_PROCESSES = 1
MOST_PROCESSES = 16
CHAT_LIMITS = ("either", "max_tokens", "max_completion_tokens")
"""Either of them bounds a chat completion, or one alone."""
DEFAULT_DISCONNECT = {"policy": "drain", "seconds": 600, "max_mib": 16, "concurrent": 256}
DISCONNECT_LIMITS = {"seconds": 3600, "max_mib": 1024, "concurrent": 10_000}
POLICIES = ("drain", "abort")
MULTIPLIER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,18})?")  # as goproxy has it in core/pricing.py
PROTOCOLS = {"anthropic": "/messages", "openai": "/chat/completions", "responses": "/responses"}
"""How the path of each one's requests ends."""
MOST_NAMES = 100  # of one certificate by Let's Encrypt, as the role certbot has it
ADMIN_BODY_MIB = 64  # as the role nginx has it
TAKEN_PORTS = {80: "the edge", 443: "the edge", 8000: "the backend"}


def upstream_name(variable: str) -> str:
    """goproxy_upstream__my_llm -> my-llm"""
    return variable.removeprefix(VARIABLE_PREFIX).replace("_", "-")


def misnamed(variables: Mapping[str, Any]) -> list[Problem]:
    """Variables that hold an upstream under a name by which it is not found: it would be left out silently."""
    problems: list[Problem] = []
    for name, value in variables.items():
        if name.startswith(VARIABLE_PREFIX):
            right = name.replace("-", "_")  # which is where playbooks/vars/wiring.yml looks for it
            if right != name:
                becomes = upstream_name(name)
                Field(None, name, problems).report("has '-' in its name", f"write {right}: it becomes {becomes}")
            continue
        if not re.match(r"go_?proxy_?upstreams?_+.", name, re.IGNORECASE):
            continue
        if isinstance(value, Mapping) and {"domain", "endpoints", "models"} & value.keys():
            suffix = re.sub(r"^go_?proxy_?upstreams?_+", "", name, flags=re.IGNORECASE)
            Field(None, name, problems).report(
                "looks like an upstream, and is not one", f"name it {VARIABLE_PREFIX}{suffix}"
            )
    return problems


def misplaced(files: Mapping[str, Iterable[str]], told: Collection[str] = ()) -> list[Problem]:
    """Files of the folder upstreams/ (path to its variables) that have no upstream, another one's, or several.

    A copied file in which the variable was not renamed would replace the upstream that it was copied from. One that is
    empty, or all comments, would remove its upstream. `told` are the variables that misnamed() speaks of.
    """
    problems: list[Problem] = []
    for path, names in files.items():
        wanted = VARIABLE_PREFIX + PurePosixPath(path).stem.replace("-", "_")
        found = [name for name in names if name.startswith(VARIABLE_PREFIX)]
        field = Field(None, path, problems)
        if found and [name.replace("-", "_") for name in found] != [wanted]:  # one with '-' is told by misnamed()
            field.report(f"holds {listed(found)}", f"let its one variable be {wanted}")
        elif not found and not set(told) & set(names):
            field.report(f"does not define {wanted}", "write it there, or delete the file to remove the upstream")
    return problems


def unread(files: Iterable[str], taken: Collection[str]) -> list[Problem]:
    """Files of the folder upstreams/ that Ansible passes over by their names, and whose upstream has no other file.

    Hidden files and backups (~) are left alone: nobody gives a file such a name by mistake.
    """
    problems: list[Problem] = []
    read = {file_name(path) for path in taken}
    for path in files:
        name = file_name(path)
        if path not in taken and name not in read:
            Field(None, path, problems).report(
                "is passed over by Ansible, because of its name",
                f"name it {name}.yml, or take it out of the folder to have no such upstream",
            )
    return problems


def file_name(path: str) -> str:
    """group_vars/all/upstreams/my_llm.yml.txt -> my_llm"""
    return PurePosixPath(path).name.partition(".")[0]


def check(
    upstreams: Mapping[str, Any],
    price_book: Any,
    settings: Mapping[str, Any],
    *,
    today: datetime.date | None = None,
) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Normalised upstreams and problems, from the upstreams by (variable's) name, goproxy_price_book and the gateway_*.

    An upstream with a problem is not among the normalised ones.
    """
    problems: list[Problem] = []
    facts = site.read(settings, problems)
    models = book.read(Field(price_book, "goproxy_price_book", problems))
    if not upstreams:
        problems.append(
            Problem(
                False,
                "upstreams",
                "",
                f"there is none; add group_vars/all/upstreams/<name>.yml with the variable {VARIABLE_PREFIX}<name> "
                "(inventory/example has two to copy)",
            )
        )
    normalised = []
    for key, raw in sorted(upstreams.items()):
        name = upstream_name(key)
        upstream = Reader(Field(raw, name, problems, of_upstream=True), facts, models, today or today_utc()).read()
        if upstream is not None:
            normalised.append(upstream)
    problems += clashes(upstreams)
    problems += crowded(upstreams, settings)
    return sorted(normalised, key=lambda upstream: str(upstream["name"])), sorted(set(problems))


def today_utc() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()


def clashes(upstreams: Mapping[str, Any]) -> list[Problem]:
    """Names, ports and domains that two upstreams share, whatever else is wrong with them."""
    problems: list[Problem] = []
    names: dict[str, str] = {}
    ports: dict[Any, str] = {}
    domains: dict[Any, str] = {}
    for key, raw in sorted(upstreams.items()):
        name = upstream_name(key)
        field = Field(raw, name, problems, of_upstream=True)
        if name in names:
            both = f"{VARIABLE_PREFIX}{names[name]} and {VARIABLE_PREFIX}{key}"
            field.report(f"is the name of two upstreams, {both}", "rename one of the variables")
            continue
        names[name] = key
        if not isinstance(raw, Mapping):
            continue
        for what, taken in (("port", ports), ("domain", domains)):
            value = raw.get(what)
            if isinstance(value, bool) or not isinstance(value, int | str):
                continue
            if value in taken:
                field.child(what, value).report(
                    f"is {value}, the {what} of {taken[value]} too", f"give {taken[value]} or {name} another {what}"
                )
            taken.setdefault(value, name)
    return problems


def crowded(upstreams: Mapping[str, Any], settings: Mapping[str, Any]) -> list[Problem]:
    """More names than one certificate has room for. The role certbot would say so when DNS has been changed."""
    problems: list[Problem] = []
    directory = settings.get("gateway_acme_directory", "letsencrypt")
    of_lets_encrypt = directory in (*site.ACME_DIRECTORIES, *site.ACME_DIRECTORIES.values())
    domains = [raw.get("domain") for raw in upstreams.values() if isinstance(raw, Mapping)]
    admin = settings.get("gateway_admin_domain")
    names = {name.lower() for name in [*domains, admin] if isinstance(name, str) and name}
    if of_lets_encrypt and len(names) > MOST_NAMES:
        count = f"{len(names)} names, gateway_admin_domain's included," if admin else f"{len(names)} names,"
        Field(None, "upstreams", problems).report(
            f"have {count} and Let's Encrypt puts {MOST_NAMES} on a certificate at most",
            "move upstreams to a second gateway (a host with an inventory and a gateway_zone of its own), "
            "or order from another authority (gateway_acme_directory)",
        )
    return problems


def oversized(upstreams: Mapping[str, Any], settings: Mapping[str, Any], temp_size: Any) -> list[Problem]:
    """Bodies that the edge has no room for: it keeps one whole while it arrives, in nginx_temp_size.

    The role nginx would say so when the proxies have been rolled out.
    """
    problems: list[Problem] = []
    room = role_options.mib(temp_size)
    if room is None:
        return problems
    right = f"{f'give {room} at most, or ' if room else ''}raise nginx_temp_size, and nginx_memory_limit with it"
    fields = [
        Field(raw, upstream_name(key), problems, of_upstream=True).child("max_body_mib", raw["max_body_mib"])
        if "max_body_mib" in raw
        else Field(settings.get("gateway_max_body_mib", site.DEFAULT_MAX_BODY_MIB), "gateway_max_body_mib", problems)
        for key, raw in upstreams.items()
        if isinstance(raw, Mapping)
    ]
    for field in fields:
        size = site.read_max_body_mib(replace(field, problems=[]))  # what is wrong with it in itself is told already
        if size is not None and size > room:
            field.report(f"is {size}, more than the edge has room for (nginx_temp_size is {temp_size})", right)
    if settings.get("gateway_admin_domain") and room < ADMIN_BODY_MIB:
        Field(None, "nginx_temp_size", problems).report(
            f"is {temp_size}, and a body of the admin API may have {ADMIN_BODY_MIB} MiB",
            f"give {ADMIN_BODY_MIB}m or more, and raise nginx_memory_limit with it, or leave gateway_admin_domain out",
        )
    return sorted(set(problems))


class Reader:
    """Reads one upstream from top to bottom."""

    def __init__(
        self, source: Field, facts: site.Site, models: Mapping[str, dict[str, Any] | None], today: datetime.date
    ) -> None:
        self.source = source
        self.name = source.subject
        self.facts = facts
        self.models = models
        self.today = today

    def read(self) -> dict[str, Any] | None:
        count = len(self.source.problems)
        if not NAME.fullmatch(self.name):
            self.source.report(
                "is no name for an upstream",
                f"use 1 to 41 small letters, digits and '_' after {VARIABLE_PREFIX}, a letter or digit first",
            )
        elif self.name == BACKEND:
            self.source.report("is the name of the control plane", "give the upstream another name")
        fields = self.source.record(REQUIRED, OPTIONAL, secret=("api_key",))
        if fields is None:
            return None
        domain = self.domain(fields["domain"]) if "domain" in fields else None
        port = self.port(fields["port"]) if "port" in fields else None
        if "api_key" in fields:
            self.api_key(fields["api_key"])
        endpoints = self.endpoints(fields["endpoints"]) if "endpoints" in fields else []
        band = self.band(fields["multiplier_band"]) if "multiplier_band" in fields else None
        models = self.read_models(fields["models"], band) if "models" in fields else []
        ttl = site.read_ttl(fields["ttl"]) if "ttl" in fields else self.facts.ttl
        timeouts = self.facts.timeouts
        if "timeouts" in fields:
            timeouts = site.read_timeouts(fields["timeouts"], timeouts or site.DEFAULT_TIMEOUTS)
        max_body_mib = self.facts.max_body_mib
        if "max_body_mib" in fields:
            max_body_mib = site.read_max_body_mib(fields["max_body_mib"])
        wallet = self.wallet(fields["wallet"]) if "wallet" in fields else None
        include_usage: bool | None = True
        if "include_usage" in fields:
            include_usage = fields["include_usage"].boolean("give true or false")
        chat_limit: str | None = CHAT_LIMITS[0]
        if "chat_limit" in fields:
            chat_limit = self.one_of(fields["chat_limit"], CHAT_LIMITS)
        staleness_seconds: int | None = DEFAULT_STALENESS_SECONDS
        if "staleness_seconds" in fields:
            staleness_seconds = fields["staleness_seconds"].integer(
                1, MOST_STALENESS_SECONDS, f"give a whole number of seconds, 1 to {MOST_STALENESS_SECONDS} (a week)"
            )
        processes: int | None = DEFAULT_PROCESSES
        if "processes" in fields:
            processes = fields["processes"].integer(
                1, MOST_PROCESSES, f"give a whole number of processes, 1 to {MOST_PROCESSES}, one for each core at most"
            )
        disconnect: dict[str, Any] = dict(DEFAULT_DISCONNECT)
        if "disconnect" in fields:
            disconnect |= self.disconnect(fields["disconnect"])
        if len(self.source.problems) > count or port is None:
            return None
        return {
            "name": self.name,
            "domain": domain,
            "port": port,
            "service": f"goproxy-{self.name}",
            "uid": UID_BASE + port,
            "ttl": ttl,
            "endpoints": endpoints,
            "multiplier_band": band,
            "models": models,
            "timeouts": timeouts,
            "max_body_mib": max_body_mib,
            "wallet": wallet,
            "include_usage": include_usage,
            "chat_limit": chat_limit,
            "staleness_seconds": staleness_seconds,
            "processes": processes,
            "disconnect": disconnect,
        }

    def domain(self, field: Field) -> str | None:
        zone = self.facts.zone
        domain = read_domain(field, f"give a name in the zone {zone}" if zone else REQUIRED["domain"])
        if domain is not None and zone is not None and domain != zone and not domain.endswith(f".{zone}"):
            field.report(f'is "{domain}", outside the zone {zone}', f"give {zone} or a name that ends in .{zone}")
        if domain is not None and domain == self.facts.admin_domain:
            field.report(f"is {domain}, gateway_admin_domain too", "give one of them another name")
            return None
        return domain

    @staticmethod
    def port(field: Field) -> int | None:
        right = "give a port from 1024 to 65535, like 8004"
        port = field.integer(1, 65535, right)
        if port is None:
            return None
        if port in TAKEN_PORTS:
            field.report(f"is {port}, which {TAKEN_PORTS[port]} has", right)
            return None
        if port < 1024:
            field.report(f"is {port}", right)
            return None
        return port

    @staticmethod
    def api_key(field: Field) -> None:
        right = "put the provider's key into the vault"
        key = field.text(right)
        if key is None:
            return
        if secret.is_placeholder(key):
            field.report("is a placeholder", right)
        elif not secret.is_sendable(key):
            field.report("has white space or a character beyond ASCII in it", "look for a line break at its end")

    def endpoints(self, field: Field) -> list[dict[str, str]]:
        right = REQUIRED["endpoints"]
        urls = field.mapping(right)
        if urls is None:
            return []
        if not urls:
            field.report("is empty", right)
        endpoints = []
        for protocol, place in sorted(urls.items()):
            if protocol not in PROTOCOLS:
                near = nearest(protocol, PROTOCOLS)
                place.report(
                    "is not a known protocol", f"did you mean {near}?" if near else f"known here: {listed(PROTOCOLS)}"
                )
                continue
            url = self.url(place, protocol)
            if url is not None:
                endpoints.append({"name": f"{self.name}-{protocol}", "protocol": protocol, "base_url": url})
        return endpoints

    @staticmethod
    def url(field: Field, protocol: str) -> str | None:
        end = PROTOCOLS[protocol]
        right = f"give the full https URL that requests go to, like https://provider.tld/v1{end}"
        url = field.text(right)
        if url is None:
            return None
        fault = endpoint_fault(url)
        if fault is not None:
            field.report(f"is {plain_url(url)}, which {fault}", right)
            return None
        if not url.endswith(end):
            field.report(f"is {url}, which does not end in {end}", f"did you mean {with_end(url, end)}?")
            return None
        return url

    @staticmethod
    def band(field: Field) -> list[int | float] | None:
        right = REQUIRED["multiplier_band"]
        entries = field.items(right)
        if entries is None:
            return None
        if len(entries) != 2:
            field.report(f"has {len(entries)} entries", right)
            return None
        low, high = (entry.number(right) for entry in entries)
        if low is None or high is None:
            return None
        if low <= 0:
            entries[0].report(f"is {low}", "a multiplier is above 0")
            return None
        if low > high:
            field.report(f"is [{low}, {high}], the higher one first", right)
            return None
        return [low, high]

    @staticmethod
    def wallet(field: Field) -> str | None:
        right = "give a name of up to 41 small letters, digits and '-', or leave it out for the account's own wallet"
        name = field.text(right)
        if name is not None and not NAME.fullmatch(name):
            field.report(f"is {shown(name)}", right)
            return None
        return name

    @staticmethod
    def one_of(field: Field, words: Collection[str]) -> str | None:
        right = f"give {listed(words)}"
        word = field.text(right)
        if word is not None and word not in words:
            field.report(f"is {shown(word)}", right)
        return word

    @staticmethod
    def disconnect(field: Field) -> dict[str, Any]:
        """What of it is given, and right."""
        fields = field.record({}, optional=tuple(DEFAULT_DISCONNECT)) or {}
        given: dict[str, Any] = {}
        for name, place in fields.items():
            if name == "policy":
                given[name] = Reader.one_of(place, POLICIES)
            else:
                limit = DISCONNECT_LIMITS[name]
                given[name] = place.integer(1, limit, f"give a whole number, 1 to {limit}")
        return given

    def read_models(self, field: Field, band: list[int | float] | None) -> list[dict[str, Any]]:
        right = REQUIRED["models"]
        entries = field.mapping(right)
        if entries is None:
            return []
        if not entries:
            field.report("is empty", right)
        models = []
        for key, place in entries.items():
            priced = self.priced(key, place)
            terms = self.terms(key, place, band)
            if priced is not None and terms is not None:
                multiplier, upstream_model_id = terms
                models.append(
                    {
                        "name": priced["name"],
                        "id": priced["id"],
                        "aliases": priced["aliases"],
                        "upstream_model_id": upstream_model_id or priced["id"],
                        "multiplier": multiplier,
                        "context_tokens": priced["context_tokens"],
                        "max_output_tokens": priced["max_output_tokens"],
                        "prices": priced["prices"],
                    }
                )
        self.check_unique(field, [(key, self.models[key]) for key in entries if self.models.get(key)])
        return models

    def priced(self, key: str, place: Field) -> dict[str, Any] | None:
        """The model's entry in the price book."""
        if key not in self.models:
            near = nearest(key, self.models)
            hint = f"did you mean {near}?" if near else "add the model there"
            place.report("has no price in goproxy_price_book", hint)
            return None
        priced = self.models[key]
        if priced is not None and not book.holds_on(priced["prices"], self.today):
            place.report(
                f"has no price in goproxy_price_book that holds on {self.today.isoformat()}",
                "give one whose effective_from is not in the future",
            )
            return None
        return priced

    @staticmethod
    def terms(key: str, place: Field, band: list[int | float] | None) -> tuple[int | float, str | None] | None:
        """The multiplier, and the provider's own id of the model where it differs."""
        right = "give the factor on the list price, like 1.08"
        fields = place.record({"multiplier": right}, ("upstream_model_id",), form="{multiplier: 1.08}")
        if fields is None:
            return None
        other_id = None
        if "upstream_model_id" in fields:
            other_id = book.read_id(fields["upstream_model_id"])
        if "multiplier" not in fields:
            return None
        multiplier = fields["multiplier"].number(right)
        if multiplier is None:
            return None
        if not MULTIPLIER.fullmatch(f"{abs(exact(multiplier)):f}"):
            fields["multiplier"].report(
                f"is {multiplier}, longer than the ledger takes",
                "give at most 9 digits before the point and 18 after it",
            )
            return None
        if band is not None and not exact(band[0]) <= exact(multiplier) <= exact(band[1]):
            fields["multiplier"].report(
                f"multiplier of {key} is {multiplier}, outside the band {band[0]}-{band[1]}",
                "give one inside it, or change multiplier_band",
            )
            return None
        return multiplier, other_id

    @staticmethod
    def check_unique(field: Field, models: Iterable[tuple[str, dict[str, Any] | None]]) -> None:
        """A client names a model by id or alias: each may stand for one model only."""
        owners: dict[str, str] = {}
        for key, model in models:
            for model_id in [model["id"], *model["aliases"]] if model else []:
                if model_id in owners:
                    whose = f"{owners[model_id]} too" if owners[model_id] != key else "the same model twice"
                    field.child(key, None).report(
                        f"has the id or alias {shown(model_id)}, which is that of {whose}",
                        "change one of them in goproxy_price_book",
                    )
                owners.setdefault(model_id, key)


def with_end(url: str, end: str) -> str:
    """What was meant by a URL of another path: a base URL, as other programs want it, or one of another protocol."""
    base = re.sub(r"/(chat|completions|messages|responses|models)(/.*)?$", "", url)
    return base + (end if re.search(r"/v\d", base) else f"/v1{end}")


def exact(number: int | float) -> Decimal:
    """The number as it is written, not as the machine holds it."""
    return Decimal(repr(number))
