"""May this request go to the upstream? Key, endpoint, size, model, permission, money: each no is a Refusal."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web

from goproxy.config import Config, Endpoint, Model
from goproxy.core.key_snapshot import LimitedKey
from goproxy.core.ledger import Hold, day_of
from goproxy.core.pricing import PriceVersion, dollars, version_in_force, worst_case
from goproxy.core.protocols import OPENAI
from goproxy.core.request_body import InvalidBody, RequestBody, read_request_body
from goproxy.core.terms import written_terms
from goproxy.core.wallet_name import key_of, name_of, of_account, of_key
from goproxy.core.wire import Fault, Refusal, WireProtocol
from goproxy.data_plane.bodies import Bodies, Body
from goproxy.data_plane.books import Books, InsufficientFunds, LeaseUnavailable, NotHeld
from goproxy.data_plane.request_head import RequestHead
from goproxy.timestamps import now

_SHOWN = 100  # characters of a client's word in a message

_QUERY = re.compile(r"\?(?:(?:beta|api-version)=[A-Za-z0-9._-]*(?:&(?!$)|$))*")
"""What may stand behind the path: the switch of Anthropic's clients, and of Azure's."""


@dataclass(slots=True)
class Admitted:
    """What may go to the upstream."""

    model: Model
    asked: RequestBody
    """Without the body itself."""
    usage_was_asked_for: bool
    """By us, and not by the client, who must not see it."""


def authenticate(head: RequestHead, books: Books, staleness_seconds: float) -> LimitedKey:
    """The key that this request shows.

    Raises:
        Refusal: none that is live. The answer is the same for a missing, a mistyped, an expired and a revoked key.
    """
    if books.keys_age > staleness_seconds:
        raise Refusal(Fault.UNAVAILABLE, "The gateway cannot check API keys at the moment. Try again later.")
    snapshot, found = books.keys, {}
    for shown in head.keys:
        key = snapshot.find_digest(shown)
        if key is not None and _is_live(key):
            found[key.id] = key
    if len(found) != 1:  # two keys of two accounts: nobody could say who pays
        raise Refusal(
            Fault.AUTHENTICATION,
            "No valid API key. Send the key of your account as `x-api-key` or as `Authorization: Bearer`.",
        )
    return found.popitem()[1]


def _is_live(key: LimitedKey) -> bool:
    return key.expires_at is None or now() < key.expires_at


def check_permission(key: LimitedKey, upstream: str, model: Model) -> None:
    """Let a key do what it may.

    Raises:
        Refusal: it may not use this upstream, or not this model.
    """
    if key.upstreams is not None and upstream not in key.upstreams:  # an older control plane tells such keys, too
        raise Refusal(Fault.PERMISSION, f"This key may not use the upstream {upstream}.")
    if not may_use(key, model):
        raise Refusal(Fault.PERMISSION, f"This key may not use the model {model.id}.")


def may_use(key: LimitedKey, model: Model) -> bool:
    """Whether a key is for this model, by whichever of its names."""
    return key.models is None or not {model.id, *model.id_aliases}.isdisjoint(key.models)


def hold_for(admitted: Admitted, config: Config, key: LimitedKey, endpoint: Endpoint, request_id: str) -> Hold:
    """The worst case of a request: the longest prompt that its body can be, and the most answer and searches.

    Raises:
        Refusal: it asks for terms that have no price.
    """
    asked, model = admitted.asked, admitted.model
    prompt = model.context_tokens if asked.has_remote_input else min(asked.most_input_tokens, model.context_tokens)
    longest = min(asked.max_output_tokens or model.max_output_tokens, model.max_output_tokens)
    opened_at = now()
    version = version_in_force(model.prices, day_of(opened_at))
    wallet = of_account(key.account, config.wallet)
    return Hold(
        id=request_id,
        opened_at=opened_at,
        account=key.account,
        key_id=key.id,
        wallets=(wallet, of_key(key.id)) if key.wallets_limit else (wallet,),
        upstream=config.upstream,
        endpoint=endpoint.name,
        protocol=endpoint.protocol.name,
        model=model.id,
        stream=asked.stream,
        estimated_input_tokens=min(asked.estimated_input_tokens, model.context_tokens),
        terms=terms_of(asked.terms, model, version),
        amount=worst_case(
            version,
            model.billing_multiplier,
            prompt,
            longest * asked.choices,
            asked.terms,
            asked.web_searches * asked.choices,
        ),
    )


def terms_of(asked: Mapping[str, str], model: Model, version: PriceVersion) -> str:
    """The terms that these fields of a request ask for.

    Raises:
        Refusal: the model has no price for them.
    """
    terms = written_terms(asked)
    if not terms or terms in version.terms:
        return terms
    named = {name: _shortened(value) for name, value in asked.items() if written_terms({name: value})}
    raise Refusal(
        Fault.INVALID_REQUEST,
        f"{' with '.join(f'{name}: {value!r}' for name, value in named.items())} has no price for {model.id} here. "
        f"Leave {' and '.join(named)} out. What has a price: {'; '.join(['the standard', *version.terms])}.",
    )


def refusal_of(reason: NotHeld) -> Refusal:
    """What a client is told whose request could not be set money aside for."""
    if isinstance(reason, InsufficientFunds):
        return Refusal(
            Fault.INSUFFICIENT_FUNDS,
            f"This request could cost up to {dollars(reason.needed)}, and {_whose(reason.wallet)} has "
            f"{dollars(max(reason.free, 0))} free. Ask for fewer tokens (max_tokens), or for more credit.",
        )
    if isinstance(reason, LeaseUnavailable):
        return Refusal(Fault.UNAVAILABLE, "The gateway cannot check your credit at the moment. Try again later.")
    return Refusal(Fault.UNAVAILABLE, "The gateway cannot write its journal at the moment. Try again later.")


def _whose(wallet: str) -> str:
    if key_of(wallet) is not None:
        return "your key's spending limit"
    return f"your wallet {wallet}" if name_of(wallet) is not None else "your account"


def endpoint_for(protocol: WireProtocol, config: Config) -> Endpoint:
    """Where the upstream speaks this protocol.

    Raises:
        Refusal: nowhere.
    """
    endpoint = config.endpoints.get(protocol.name)
    if endpoint is None:
        supported = " and ".join(
            f"POST https://{config.domain}{other.protocol.path}" for other in config.endpoints.values()
        )
        raise Refusal(
            Fault.NO_ENDPOINT,
            f"The upstream {config.upstream} has no {protocol.name} endpoint, so that "
            f"{protocol.path} does not work here. Supported: {supported}.",
        )
    return endpoint


def model_for(name: str, config: Config) -> Model:
    """The model of this id or alias.

    Raises:
        Refusal: there is none.
    """
    model = config.models_by_name.get(name)
    if model is None:
        available = ", ".join(model.id for model in config.models)
        raise Refusal(
            Fault.UNKNOWN_MODEL,
            f"There is no model {_shortened(name)!r} at {config.domain}. Available: {available}.",
        )
    return model


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def admit(body: Body, config: Config, protocol: WireProtocol, *, asks_for_usage: bool = False) -> Admitted:
    """What of the body must be known; it is as the upstream shall have it then.

    `asks_for_usage`: a stream is asked for its usage where the client did not.

    Raises:
        Refusal: it cannot be sent.
    """
    try:
        asked = read_request_body(body.data, config.chat_limits if protocol is OPENAI else protocol.limits)
    except InvalidBody as error:
        raise Refusal(Fault.INVALID_REQUEST, str(error)) from None
    model = model_for(asked.model, config)
    body.data = asked.sent_as(model.upstream_model_id, asking_for_usage=asks_for_usage)
    asked.body = b""
    return Admitted(model, asked, usage_was_asked_for=asks_for_usage and asked.lacks_usage)


def check_query(head: RequestHead) -> None:
    """Let a query say nothing that an upstream might take for the body's: LiteLLM runs the model of `?model=`.

    Raises:
        Refusal: it says more than clients need.
    """
    if head.query and not _QUERY.fullmatch(head.query):
        raise Refusal(
            Fault.INVALID_REQUEST,
            "The URL may end in ?beta=... or ?api-version=...; an upstream could read more than that in place of the "
            "body. Leave the rest out.",
        )


def check_encoding(head: RequestHead) -> None:
    """Take a body only as it is.

    Raises:
        Refusal: it is packed.
    """
    if head.is_packed:
        raise Refusal(Fault.INVALID_REQUEST, "The request body is compressed. Send it plain, without Content-Encoding.")


def check_size(size: int, limit: int) -> None:
    """Take a body of at most `limit` bytes.

    Raises:
        Refusal: it is longer.
    """
    if size > limit:
        raise Refusal(Fault.TOO_LARGE, f"The request body is larger than {limit} bytes, which is the limit here.")


async def read_body(request: web.Request, bodies: Bodies, limit: int, patience: float) -> Body:
    """The whole body of a request.

    Raises:
        Refusal: it is larger than `limit` bytes, cut short, or pauses for longer than `patience` seconds; or there is
            no room for it.
    """
    told = request.content_length or 0
    check_size(told, limit)
    bodies.check(told, told)
    body, came = Body(bodies), bytearray()
    try:
        while True:
            async with asyncio.timeout(patience):
                piece = await request.content.readany()
            if not piece:
                body.data = bytes(came)
                return body
            came += piece
            check_size(len(came), limit)
            body.grow(len(came))
    except TimeoutError:
        raise Refusal(Fault.SLOW_UPLOAD, f"The request body paused for more than {patience:g} s.") from None
    except web.RequestPayloadError:
        raise Refusal(Fault.INVALID_REQUEST, "The request body is not framed as HTTP asks.") from None
