"""The mounted config.json of one upstream: what it holds, and the complaints about one that does not hold it.

Every problem is found in one reading and reported as `field.path: what is wrong; what would be right`. Numbers are
read as `int` and `Decimal`: prices and multipliers are money, and no float comes near it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

from yarl import URL

from goproxy.config_reader import Fields, Problems, parse_json
from goproxy.core.pricing import MULTIPLIER, REQUIRED_PRICES, PriceVersion, Tier, written_number
from goproxy.core.protocols import PROTOCOLS
from goproxy.core.request_body import LIMITS
from goproxy.core.terms import STANDARD, VALUE, written_terms
from goproxy.core.usage import TOKENS
from goproxy.core.wire import OfferedModel, WireProtocol


class ConfigError(Exception):
    """A configuration that cannot be used, with all its problems."""

    def __init__(self, source: str, problems: list[str]) -> None:
        super().__init__("\n".join(f"{source}: {problem}" for problem in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the upstream speaks one wire protocol."""

    name: str
    protocol: WireProtocol
    base_url: str


@dataclass(frozen=True, slots=True)
class Model:
    """A model that this upstream serves, and what it costs."""

    name: str
    id: str
    id_aliases: tuple[str, ...]
    upstream: str
    upstream_model_id: str
    billing_multiplier: Decimal
    prices: tuple[PriceVersion, ...]
    context_tokens: int
    """The longest prompt that it takes."""
    max_output_tokens: int
    """The longest answer that it gives, asked for or not."""

    @property
    def offered(self) -> OfferedModel:
        return OfferedModel(self.id, self.name, self.upstream)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long the upstream may take, in seconds."""

    connect: float
    """To resolve its name, connect and shake hands."""
    first_byte: float
    """From the request's being sent to the first byte of the answer's body."""
    idle: float
    """Between two pieces of an answer."""
    total: float
    """For the whole exchange."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """What becomes of an answer whose client has gone, and how much of it is read for the count alone."""

    policy: str
    """`drain`: read to its end within the bounds; `abort`: break it off and estimate."""
    seconds: int
    bytes: int
    """Of one answer's body."""
    concurrent: int
    """Answers that are drained at once; one more is broken off."""


@dataclass(frozen=True, slots=True)
class Config:
    """What one goproxy serves."""

    upstream: str
    domain: str
    port: int
    endpoints: Mapping[str, Endpoint]
    """By name of the wire protocol."""
    multiplier_band: tuple[Decimal, Decimal]
    models: tuple[Model, ...]
    models_by_name: Mapping[str, Model]
    """By id and by alias."""
    timeouts: Timeouts
    max_body_bytes: int
    wallet: str | None
    """The wallet of each account that pays here, `<account>/<wallet>`; None: the one of the account's own name."""
    include_usage: bool
    """Whether OpenAI streams are asked for their usage where the client did not."""
    chat_limits: tuple[str, ...]
    """The fields by which the upstream bounds a chat completion; it passes over any other one."""
    disconnect: Disconnect
    staleness_seconds: int
    """How long the last good answer of the control plane about keys is believed."""
    processes: int
    """How many serve it on its port, one per core."""


def load_config(path: Path) -> Config:
    """Read the file at `path`.

    Raises:
        ConfigError: it cannot be read, or not be used.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from None
    return parse_config(data, source=str(path))


def parse_config(data: bytes, *, source: str = "config.json") -> Config:
    """Read a configuration from the bytes of its file.

    Raises:
        ConfigError: it cannot be used.
    """
    problems = Problems()
    document = parse_json(data, problems)
    if not problems:
        config = _config(Fields(document, "", problems))
        if not problems:
            return config
    raise ConfigError(source, problems.found)


_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
_DOMAIN = re.compile(r"(?=.{4,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9]")
_MODEL_ID = re.compile(r"[!-~]{1,200}")
_LINE = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")

_CONTEXT_TOKENS = 200_000
_MAX_OUTPUT_TOKENS = 64_000
_DISCONNECT = Disconnect(policy="drain", seconds=600, bytes=16 * 1024 * 1024, concurrent=256)
STALENESS_SECONDS = 3600
_PROCESSES = 1
"""What holds where the file says nothing."""

_EITHER = "either"
_CHAT_LIMITS = {_EITHER: LIMITS, **{name: (name,) for name in LIMITS}}

_POLICIES = ("abort", "drain")


def _config(fields: Fields) -> Config:
    upstream = fields.text("upstream", _NAME, "lower-case letters, digits and hyphens")
    domain = fields.text("domain", _DOMAIN, "a host name in lower case such as chat.example.org")
    port = fields.whole("port", 1, 65535)
    endpoints = [_endpoint(each) for each in fields.objects("endpoints")]
    band = _band(fields)
    models = tuple(_model(each, upstream, band) for each in fields.objects("models"))
    config = Config(
        upstream=upstream,
        domain=domain,
        port=port,
        endpoints={endpoint.protocol.name: endpoint for endpoint in endpoints},
        multiplier_band=band,
        models=models,
        models_by_name=_by_name(models, fields),
        timeouts=_timeouts(fields.object("timeouts")),
        max_body_bytes=fields.whole("max_body_bytes", 1, 2**31),
        wallet=fields.text("wallet", _NAME, "lower-case letters, digits and hyphens") if fields.has("wallet") else None,
        include_usage=fields.truth("include_usage") if fields.has("include_usage") else True,
        chat_limits=_CHAT_LIMITS[fields.one_of("chat_limit", _CHAT_LIMITS) if fields.has("chat_limit") else _EITHER],
        disconnect=_disconnect(fields.object("disconnect")) if fields.has("disconnect") else _DISCONNECT,
        staleness_seconds=_whole_or(fields, "staleness_seconds", 1, 7 * 86400, STALENESS_SECONDS),
        processes=_whole_or(fields, "processes", 1, 16, _PROCESSES),
    )
    for index, endpoint in enumerate(endpoints):
        if config.endpoints[endpoint.protocol.name] is not endpoint:
            fields.complain(
                f"endpoints[{index}].protocol",
                f"{endpoint.protocol.name!r} has a second endpoint",
                "one endpoint for each protocol",
            )
    fields.nothing_else()
    return config


def _endpoint(fields: Fields) -> Endpoint:
    protocol = fields.one_of("protocol", PROTOCOLS)
    endpoint = Endpoint(
        name=fields.text("name", _NAME, "lower-case letters, digits and hyphens"),
        protocol=PROTOCOLS[protocol],
        base_url=fields.text("base_url", _LINE, "the full URL of the provider's endpoint"),
    )
    if fields.is_sound("base_url") and not _is_endpoint_url(endpoint.base_url):
        fields.complain(
            "base_url",
            f"{endpoint.base_url!r} is not an endpoint's URL",
            "https://host/path without user, query or trailing slash (http only to a loopback address)",
        )
    fields.nothing_else()
    return endpoint


def _is_endpoint_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        host, _ = url.hostname, url.port
        _ = URL(text).host  # what requests are made of, and stricter
    except ValueError:
        return False
    plain = text.isascii() and not (url.query or url.fragment or url.username or url.password or "?" in text)
    path = url.path.startswith("/") and not url.path.endswith("/") and " " not in text
    secure = url.scheme == "https" or (url.scheme == "http" and _is_loopback(host or ""))
    return bool(host) and plain and path and secure


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _band(fields: Fields) -> tuple[Decimal, Decimal]:
    numbers = fields.numbers("multiplier_band")
    if fields.is_sound("multiplier_band") and not (len(numbers) == 2 and 0 < numbers[0] <= numbers[1]):
        fields.complain(
            "multiplier_band",
            f"[{', '.join(map(str, numbers))}] is not a band",
            "[lowest, highest], both above 0",
        )
    return (numbers[0], numbers[1]) if fields.is_sound("multiplier_band") else (Decimal(0), Decimal("Inf"))


def _model(fields: Fields, upstream: str, band: tuple[Decimal, Decimal]) -> Model:
    model = Model(
        name=fields.text("name", _LINE, "the name that people know it by"),
        id=fields.text("id", _MODEL_ID, "the id that clients ask for"),
        id_aliases=tuple(fields.texts("id_aliases", _MODEL_ID, "other ids for it")),
        upstream=fields.text("upstream", _NAME, "the name of the config's own upstream"),
        upstream_model_id=fields.text("upstream_model_id", _MODEL_ID, "the upstream's id for it"),
        billing_multiplier=fields.number("billing_multiplier"),
        prices=_prices(fields),
        context_tokens=_whole_or(fields, "context_tokens", 1, 10**9, _CONTEXT_TOKENS),
        max_output_tokens=_whole_or(fields, "max_output_tokens", 1, 10**9, _MAX_OUTPUT_TOKENS),
    )
    if fields.is_sound("upstream") and upstream and model.upstream != upstream:
        fields.complain("upstream", f"{model.upstream!r} is another upstream", repr(upstream))
    sound = fields.is_sound("context_tokens") and fields.is_sound("max_output_tokens")
    if sound and model.max_output_tokens > model.context_tokens:
        fields.complain(
            "max_output_tokens",
            f"{model.max_output_tokens} is more than context_tokens",
            f"at most {model.context_tokens}",
        )
    if fields.is_sound("billing_multiplier") and not re.fullmatch(
        MULTIPLIER, written_number(abs(model.billing_multiplier))
    ):
        right = "a number with at most 9 digits before the point and 18 after it"
        fields.complain("billing_multiplier", f"{model.billing_multiplier} is longer than the ledger takes", right)
    low, high = band
    if fields.is_sound("billing_multiplier") and not low <= model.billing_multiplier <= high:
        fields.complain(
            "billing_multiplier",
            f"{model.billing_multiplier} is outside multiplier_band",
            f"a number from {low} to {high}",
        )
    fields.nothing_else()
    return model


def _by_name(models: tuple[Model, ...], fields: Fields) -> dict[str, Model]:
    by_name: dict[str, Model] = {}
    for index, model in enumerate(models):
        for name in (model.id, *model.id_aliases):
            if name and by_name.setdefault(name, model) is not model:
                fields.complain(
                    f"models[{index}]",
                    f"{name!r} already names {by_name[name].name!r}",
                    "an id or alias that only one model has",
                )
    return by_name


def _prices(fields: Fields) -> tuple[PriceVersion, ...]:
    versions = [_price_version(each) for each in fields.objects("prices")]
    days = [version.effective_from for version in versions]
    if fields.is_sound("prices") and len(set(days)) != len(days):
        fields.complain("prices", "two versions begin on one day", "one version for each effective_from")
    return tuple(sorted(versions, key=lambda version: version.effective_from))


def _price_version(fields: Fields) -> PriceVersion:
    day = fields.text("effective_from", _DAY, "a day such as 2025-11-24")
    effective_from = date.min
    if fields.is_sound("effective_from"):
        try:
            effective_from = date.fromisoformat(day)
        except ValueError:
            fields.complain("effective_from", f"{day!r} is no day", "a day such as 2025-11-24")
    fees = {"web_search": _price(fields, "web_search", "USD per 1,000 searches")} if fields.has("web_search") else {}
    tiers = _tiers(fields, fees)
    terms = _terms(fields, fees) if fields.has("terms") else {}
    fields.nothing_else()
    return PriceVersion(effective_from, tiers, terms)


def _terms(fields: Fields, fees: Mapping[str, Decimal]) -> dict[str, tuple[Tier, ...]]:
    """The prices of other terms than the standard ones."""
    found: dict[str, tuple[Tier, ...]] = {}
    for each in fields.objects("terms"):
        values = {name: each.text(name, VALUE, "a value of it, in one word") for name in STANDARD if each.has(name)}
        terms, tiers = written_terms(values), _tiers(each, fees)
        if all(map(each.is_sound, values)):
            name, right = next(iter(values), "service_tier"), "a value that is not"
            if not values:
                each.complain(name, "is missing", f"one or more of {', '.join(STANDARD)}")
            elif not terms:
                each.complain(name, f"{values[name]!r} is standard, and has the price of the version", right)
            elif terms in found:
                each.complain(name, f"{terms} has another entry", "one entry for the same")
        each.nothing_else()
        found[terms] = tiers
    return found


def _tiers(fields: Fields, fees: Mapping[str, Decimal]) -> tuple[Tier, ...]:
    """The tiers with their own prices, and with what costs the same in all of them."""
    tiers = tuple(_tier(each, fees) for each in fields.objects("tiers"))
    limits = [tier.up_to_prompt_tokens for tier in tiers]
    bounded = [limit for limit in limits[:-1] if limit is not None]
    ascending = len(bounded) == len(limits) - 1 and sorted(set(bounded)) == bounded
    if tiers and fields.is_sound("tiers") and not (ascending and limits[-1] is None):
        fields.complain(
            "tiers",
            f"up_to_prompt_tokens {limits} do not cover every prompt once".replace("None", "null"),
            "ascending limits, and null in the last tier only",
        )
    return tiers


def _tier(fields: Fields, fees: Mapping[str, Decimal]) -> Tier:
    up_to = fields.whole_or_null("up_to_prompt_tokens", 1, 10**9)
    named = [kind for kind in TOKENS if kind in REQUIRED_PRICES or fields.has(kind)]
    prices = {kind: _price(fields, kind, "USD per million tokens") for kind in named}
    fields.nothing_else()
    return Tier(up_to, {**prices, **fees})


def _price(fields: Fields, kind: str, unit: str) -> Decimal:
    price = fields.number(kind)
    if price < 0:
        fields.complain(kind, f"{price} is below 0", f"{unit}, 0 or more")
    return price


def _disconnect(fields: Fields) -> Disconnect:
    disconnect = Disconnect(
        policy=fields.one_of("policy", _POLICIES) if fields.has("policy") else _DISCONNECT.policy,
        seconds=_whole_or(fields, "seconds", 1, 3600, _DISCONNECT.seconds),
        bytes=_whole_or(fields, "bytes", 1, 2**31, _DISCONNECT.bytes),
        concurrent=_whole_or(fields, "concurrent", 1, 10_000, _DISCONNECT.concurrent),
    )
    fields.nothing_else()
    return disconnect


def _whole_or(fields: Fields, name: str, low: int, high: int, default: int) -> int:
    return fields.whole(name, low, high) if fields.has(name) else default


def _timeouts(fields: Fields) -> Timeouts:
    seconds = {name: fields.number(name) for name in ("connect", "first_byte", "idle", "total")}
    for name, value in seconds.items():
        if fields.is_sound(name) and value <= 0:
            fields.complain(name, f"{value} is not above 0", "a number of seconds")
    if all(map(fields.is_sound, seconds)):
        for shorter, longer in (("connect", "first_byte"), ("first_byte", "total"), ("idle", "total")):
            if seconds[shorter] > seconds[longer]:
                fields.complain(
                    shorter,
                    f"{seconds[shorter]} is longer than {longer}",
                    f"at most {seconds[longer]} s, or a longer {longer}",
                )
    fields.nothing_else()
    return Timeouts(**{name: float(value) for name, value in seconds.items()})
