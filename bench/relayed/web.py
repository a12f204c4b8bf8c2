"""Small questions over HTTP to what runs on this machine."""

from __future__ import annotations

import http.client
import json
from typing import Any

from relayed.process import CannotMeasure

_PATIENCE = 60.0


def get(port: int, path: str, token: str | None = None) -> Any:
    """A JSON document.

    Raises:
        CannotMeasure: there is none.
    """
    return _ask("GET", port, path, token, None)


def post(port: int, path: str, token: str, document: dict[str, Any]) -> Any:
    """A JSON document for another one.

    Raises:
        CannotMeasure: there is none.
    """
    return _ask("POST", port, path, token, json.dumps(document))


def metric(port: int, name: str) -> float:
    """What a goproxy tells Prometheus under this name, over all its labels; 0 if it tells nothing.

    Raises:
        CannotMeasure: it does not answer.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
    try:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    except OSError as error:
        raise CannotMeasure(f"GET /metrics at port {port}: {error!r}") from None
    finally:
        connection.close()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition(" ")[0].partition("{")[0] == name)


def is_ready(port: int) -> bool:
    """Whether what is there says that it is ready."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _ask(method: str, port: int, path: str, token: str | None, body: str | None) -> Any:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise CannotMeasure(f"{method} {path}: no answer: {error}") from None
    finally:
        connection.close()
    if answer.status >= 300:
        raise CannotMeasure(f"{method} {path}: status {answer.status}: {content[:300].decode(errors='replace')}")
    return json.loads(content)
