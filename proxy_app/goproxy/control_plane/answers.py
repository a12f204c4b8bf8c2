"""What the control plane answers when it cannot do as it was asked: always `{"error": {"type", "message"}}`."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from aiohttp import web
from aiohttp.typedefs import Handler

from goproxy.control_plane.store.backup import UnusableBackup
from goproxy.control_plane.store.database import StoreUnavailable
from goproxy.control_plane.store.refusals import Conflict, NotFound
from goproxy.observe import exception_fields, log

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    500: "api_error",
    503: "unavailable_error",
}
"""By status; all others are invalid_request_error."""

_RETRY_AFTER = "1"
"""Seconds after which a store that could not be had is worth another try."""


class NotServed(Exception):
    """A request that is not served; the text says why, to whoever sent it."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer in JSON whatever happens."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return _error(error.status, f"{request.method} {request.path[:100]}: {error.reason}", allowed)
    except NotServed as refusal:
        return _error(refusal.status, str(refusal), refusal.headers)
    except NotFound as error:
        return _error(404, str(error))
    except Conflict as error:
        return _error(409, str(error))
    except UnusableBackup as error:
        return _error(400, str(error))
    except StoreUnavailable as error:
        return _error(503, f"the store cannot be had now: {error}", {"Retry-After": _RETRY_AFTER})
    except Exception as error:
        log("internal error", level=logging.ERROR, route=request.match_info.route.name, **exception_fields(error))
        return _error(500, "this is a mistake of goproxy; its log has a line about it")


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    error = {"type": _TYPES.get(status, "invalid_request_error"), "message": message}
    return web.json_response({"error": error}, status=status, headers=headers)
