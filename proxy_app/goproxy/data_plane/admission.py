"""May this request go to the upstream? Its key, its endpoint, its size, its model: each no is a Refusal."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiohttp import web
from multidict import CIMultiDictProxy

from goproxy.config import Config, Endpoint, Model
from goproxy.core.request_body import InvalidBody, read_request_body
from goproxy.core.wire import Fault, Refusal, WireProtocol
from goproxy.data_plane.keyring import Keyring, NoKeys

_SHOWN = 100  # characters of a wrong model name in a message
_BEARER = "bearer "


@dataclass(frozen=True, slots=True)
class Admitted:
    """What may go to the upstream."""

    model: Model
    stream: bool
    body: bytes


def authenticate(headers: CIMultiDictProxy[str], keyring: Keyring) -> str:
    """Whose request this is.

    Raises:
        Refusal: nobody's. The answer is the same for a missing, a mistyped and a revoked key.
    """
    try:
        accounts = {account for key in _presented(headers) if (account := keyring.account_of(key))}
    except NoKeys:
        raise Refusal(Fault.UNAVAILABLE, "The gateway cannot check API keys at the moment. Try again later.") from None
    if len(accounts) != 1:  # two keys of two accounts: nobody could say who pays
        raise Refusal(
            Fault.AUTHENTICATION,
            "No valid API key. Send the key of your account as `x-api-key` or as `Authorization: Bearer`.",
        )
    return accounts.pop()


def _presented(headers: CIMultiDictProxy[str]) -> set[str]:
    """The keys that a request shows. Clients configured twice (a key and a token) send both headers."""
    keys = headers.getall("x-api-key", [])
    bearers = headers.getall("authorization", [])
    if len(keys) > 1 or len(bearers) > 1:
        return set()
    tokens = [value[len(_BEARER) :] for value in bearers if value[: len(_BEARER)].lower() == _BEARER]
    return {key.strip() for key in (*keys, *tokens)}


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
        shown = name if len(name) <= _SHOWN else name[:_SHOWN] + "…"
        raise Refusal(
            Fault.UNKNOWN_MODEL,
            f"There is no model {shown!r} at {config.domain}. Available: {available}.",
        )
    return model


def admit(body: bytes, config: Config) -> Admitted:
    """What of the body must be known, and the body as the upstream shall have it.

    Raises:
        Refusal: it cannot be sent.
    """
    try:
        asked = read_request_body(body)
    except InvalidBody as error:
        raise Refusal(Fault.INVALID_REQUEST, str(error)) from None
    model = model_for(asked.model, config)
    if asked.model != model.upstream_model_id:
        body = asked.naming(model.upstream_model_id)
    return Admitted(model, asked.stream, body)


async def read_body(request: web.Request, limit: int, patience: float) -> bytes:
    """The whole body of a request.

    Raises:
        Refusal: it is larger than `limit` bytes, packed, cut short, or pauses for longer than `patience` seconds.
    """
    too_large = Refusal(Fault.TOO_LARGE, f"The request body is larger than {limit} bytes, which is the limit here.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(
            Fault.INVALID_REQUEST,
            "The request body is compressed. Send it plain, without Content-Encoding.",
        )
    if (request.content_length or 0) > limit:
        raise too_large
    body = bytearray()
    try:
        while True:
            async with asyncio.timeout(patience):
                piece = await request.content.readany()
            if not piece:
                return bytes(body)
            body += piece
            if len(body) > limit:
                raise too_large
    except TimeoutError:
        raise Refusal(Fault.SLOW_UPLOAD, f"The request body paused for more than {patience:g} s.") from None
    except web.RequestPayloadError:
        raise Refusal(Fault.INVALID_REQUEST, "The request body is not framed as HTTP asks.") from None
