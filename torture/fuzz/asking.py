"""Asks a proxy and the backend's admin API what nobody would: each question by a seed, each answer looked at.

No answer is a 500, none is anything but JSON in the API's own shape, and both processes are there afterwards. The
requests are HTTP by the rules: what is not is the matter of torture/smuggling.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from relayed.web import get

from torture.deployment import Deployment, deployed
from torture.smuggling.corpus import MODEL
from torture.smuggling.record import recording_provider

_log = logging.getLogger("torture")
_AT_ONCE = 8
_PATIENCE = 20.0
_DEEPEST = 6
_GATEWAYS_OWN = {502, 503, 504}
"""What a proxy or a store that is asked too much may answer, in the API's shape."""

_ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1.5,
    10**9,
    10**19,
    10**40,
    -(2**63),
    2**63,
    "",
    "x",
    "\x00",
    "\ud800",
    "\u202e",
    "x" * 5000,
    "../../etc/passwd",
    "' OR 1=1 --",
    "<script>",
    "${jndi:ldap://x}",
    "2026-02-30",
    "9999-12-31T23:59:59Z",
    "nan",
    [],
    [[]] * 50,
    {},
    {"": {}},
    [None],
    {"type": "text"},
)
_RAW = (
    b"",
    b"{",
    b"null",
    b"[]",
    b'"x"',
    b"7",
    b"\xff\xfe",
    b"\x00" * 100,
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"{}" * 5000,
    b"\xef\xbb\xbf{}",
    b'{"model":1e999}',
    b'{"model":NaN}',
    b'{"model":' + b"9" * 10_000 + b"}",
    b'{"model":"x","model":"y"}',
    b" " * 100_000,
    b'{"model":"\\ud800"}',
    b"\x1f\x8b\x08\x00",
)
_PATHS = (
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/models",
    f"/v1/models/{MODEL}",
    "/v1/models/%00",
    "/v1/models/%ff%fe",
    "/v1/models/a/b",
    "/v1/embeddings",
    "/v1",
    "/",
    "/healthz",
    "/readyz",
    "/metrics",
    "/admin/v1/accounts",
    "/v1/messages/%2e%2e/x",
    "/" + "x" * 3000,
)
_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "X-ODD")
_HEADERS = (
    (
        "Content-Type",
        ("application/json", "text/plain", "", "application/json; charset=x", "multipart/form-data", "\xff"),
    ),
    ("Content-Encoding", ("gzip", "identity", "x", "")),
    ("Accept", ("*/*", "text/html", "")),
    ("anthropic-version", ("2023-06-01", "", "x", "\xff", "9" * 3000)),
    ("anthropic-beta", ("a,b", "\t", "\xc3\xa9", "x" * 4000)),
    ("Idempotency-Key", ("x", "", "\xff")),
    ("X-Request-Id", ("x", "\xff", "y" * 5000)),
    ("Cookie", ("a=b", "")),
    ("Range", ("bytes=0-1", "x")),
    ("If-None-Match", ("*", "x")),
    ("Last-Event-ID", ("1", "-1", "x")),
    ("X-Forwarded-For", ("1.2.3.4", "x")),
    ("Expect", ("100-continue",)),
    ("Connection", ("close", "keep-alive", "x")),
)
_TOKENS = ("Bearer x", "Bearer ", "Basic eDp5", "", "Bearer \xff", "bearer", "Bearer " + "y" * 5000, "Digest x")


@dataclass
class Asked:
    """What came of it."""

    requests: int = 0
    failures: list[str] = field(default_factory=list)

    def fail(self, what: str) -> None:
        """Something that must not be."""
        self.failures.append(what)
        _log.warning("fuzz: %s", what)


@dataclass(frozen=True)
class Question:
    """One request."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def written(self) -> bytes:
        """As HTTP."""
        lines = [
            f"{self.method} {self.target} HTTP/1.1",
            "Host: fuzz",
            *(f"{name}: {text}" for name, text in self.headers),
        ]
        lines += [f"Content-Length: {len(self.body)}"]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + self.body


def _chat(draw: random.Random) -> dict[str, Any]:
    return {
        "model": draw.choice((MODEL, "claude-opus-4-5", "x")),
        "max_tokens": draw.choice((1, 8, 10**6)),
        "messages": [{"role": "user", "content": draw.choice(("x", [{"type": "text", "text": "y"}]))}],
        "stream": draw.choice((True, False)),
        "metadata": {"user_id": "z"},
        "stream_options": {"include_usage": draw.choice((True, False))},
        "n": 1,
    }


def _spoiled(draw: random.Random, document: Any) -> Any:
    """A document with something odd somewhere in it."""
    if isinstance(document, dict) and document and draw.random() < 0.8:
        name = draw.choice([*document])
        way = draw.random()
        if way < 0.15:
            return {key: value for key, value in document.items() if key != name}
        if way < 0.25:
            return document | {draw.choice(("", "x", "model", "\x00", "id")): draw.choice(_ODD)}
        return document | {name: _spoiled(draw, document[name])}
    if isinstance(document, list) and document and draw.random() < 0.6:
        return [_spoiled(draw, document[0]), *document[1:]] * draw.choice((1, 1, 3))
    return draw.choice(_ODD)


def _body(draw: random.Random, document: Any) -> bytes:
    way = draw.random()
    if way < 0.1:
        return draw.choice(_RAW)
    if way < 0.2:
        return draw.randbytes(draw.randrange(200))
    for _ in range(draw.choice((0, 1, 1, 2))):
        document = _spoiled(draw, document)
    return json.dumps(document).encode()


def _headers(draw: random.Random, credential: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    found = [(name, draw.choice(texts)) for name, texts in draw.sample(_HEADERS, draw.randrange(5))]
    way = draw.random()
    if way < 0.8:
        found.append(credential)
    elif way < 0.95:
        found.append((draw.choice(("Authorization", "x-api-key")), draw.choice(_TOKENS)))
    return tuple(found)


def _of_client(seed: int, key: str) -> Question:
    draw = random.Random(f"client {seed}")
    path = draw.choice(_PATHS[:4]) if draw.random() < 0.7 else draw.choice(_PATHS)
    method = "POST" if draw.random() < 0.75 else draw.choice(_METHODS)
    credential = draw.choice((("x-api-key", key), ("Authorization", f"Bearer {key}")))
    return Question(method, path + _query(draw, ()), _headers(draw, credential), _body(draw, _chat(draw)))


def _query(draw: random.Random, names: tuple[str, ...]) -> str:
    if draw.random() < 0.5:
        return ""
    pairs = [(draw.choice((*names, "beta", "x", "")), draw.choice(_ODD)) for _ in range(draw.randrange(1, 4))]
    return "?" + "&".join(f"{name}={quote(str(value), errors='replace')[:2000]}" for name, value in pairs)


class _Described:
    """The admin API's own description: what could be asked, from which questions are spoiled."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        self._schemas = description["components"]["schemas"]
        self._operations = [
            (method.upper(), path, operation)
            for path, operations in description["paths"].items()
            for method, operation in operations.items()
            if operation["operationId"] not in ("make_backup", "restore_backup")  # these take the whole store
        ]

    def question(self, seed: int, token: str) -> Question:
        """The question of this number."""
        draw = random.Random(f"operator {seed}")
        method, path, operation = draw.choice(self._operations)
        for name in re.findall(r"\{(\w+)\}", path):
            text = draw.choice(("alice", "x", "none", "0", "%00", "%2e%2e", "%ff", "y" * 300, "-1", "Ü"))
            path = path.replace(f"{{{name}}}", quote(text, safe="%"))
        names = tuple(each["name"] for each in operation.get("parameters", ()) if each["in"] == "query")
        content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        document = self._example(draw, content.get("schema", {}), 0) if content else {}
        if draw.random() < 0.05:
            method = draw.choice(_METHODS)
        headers = _headers(draw, ("Authorization", f"Bearer {token}"))
        return Question(method, path + _query(draw, names), headers, _body(draw, document) if content else b"")

    def _example(self, draw: random.Random, schema: Mapping[str, Any], depth: int) -> Any:
        if depth > _DEEPEST:
            return None
        example: Any = draw.choice(schema.get("enum", _ODD))
        match schema:
            case {"$ref": str() as name}:
                example = self._example(draw, self._schemas[name.rpartition("/")[2]], depth + 1)
            case {"anyOf": [*options]} | {"oneOf": [*options]}:
                example = self._example(draw, draw.choice(options), depth + 1)
            case {"type": "object"}:
                fields = schema.get("properties", {}).items()
                example = {name: self._example(draw, each, depth + 1) for name, each in fields if draw.random() < 0.8}
            case {"type": "array"}:
                example = [self._example(draw, schema.get("items", {}), depth + 1)]
            case {"type": "integer" | "number"}:
                example = draw.choice((0, 1, 7, 10**6))
            case {"type": "string"} if "enum" not in schema:
                example = draw.choice(("alice", f"x{draw.randrange(1000)}", "2026-01-01", "2026-01-01T00:00:00Z"))
        return example


def _is_error(document: Any) -> bool:
    """The shape of one of the protocols, or of the admin API."""
    error = document.get("error") if isinstance(document, dict) else None
    return isinstance(error, dict) and isinstance(error.get("message"), str) and isinstance(error.get("type"), str)


async def _ask(port: int, question: Question, asked: Asked) -> None:
    asked.requests += 1
    try:
        async with asyncio.timeout(_PATIENCE):
            status, headers, body = await _answer(port, question)
    except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
        asked.fail(f"{error!r} for {question!r:.600}")
        return
    if status == 500 or (status > 500 and status not in _GATEWAYS_OWN):
        asked.fail(f"{status} {body[:200]!r} for {question!r:.600}")
    elif status >= 400 and question.method != "HEAD":
        try:
            is_good = _is_error(json.loads(body)) and headers.get("content-type", "").startswith("application/json")
        except ValueError:
            is_good = False
        # /healthz, /readyz and /metrics are the private network's, and no API.
        if not is_good and not re.match(r"/(healthz|readyz|metrics)\b", question.target):
            asked.fail(f"{status} {headers.get('content-type')} {body[:200]!r} for {question!r:.600}")


async def _answer(port: int, question: Question) -> tuple[int, dict[str, str], bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    try:
        writer.write(question.written())
        status = 100
        while status == 100:
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
            status = int(first.split()[1])
        headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
        body = b""
        if question.method != "HEAD" and "content-length" in headers:
            body = await reader.readexactly(int(headers["content-length"]))
        elif question.method != "HEAD" and status >= 400:
            body = await reader.read(-1)
        return status, headers, body
    finally:
        writer.transport.abort()


async def _ask_all(deployment: Deployment, count: int, asked: Asked) -> None:
    described = _Described(get(deployment.backend_port, "/admin/v1/openapi.json"))
    free = asyncio.Semaphore(_AT_ONCE)

    async def one(seed: int) -> None:
        async with free:
            if seed % 2:
                port = deployment.proxy_ports["openhands"]
                await _ask(port, _of_client(seed, deployment.key), asked)
            else:
                question = described.question(seed, deployment.credentials.operator)
                await _ask(deployment.backend_port, question, asked)

    await asyncio.gather(*map(one, range(count)))


async def _run(count: int, scratch: Path) -> Asked:
    asked = Asked()
    async with recording_provider() as record:
        with deployed(scratch / "asked", record.url) as deployment:
            await _ask_all(deployment, count, asked)
            for what in record.not_requests:
                asked.fail(f"the provider got {what[:300]!r}")
            for process in deployment.processes.values():
                if not process.is_alive:
                    asked.fail(f"{process.name} has ended")
                for line in process.written().splitlines():
                    if any(sign in line for sign in ('"request failed"', '"internal error"', "Traceback", "Unhandled")):
                        asked.fail(f"{process.name}: {line[:600]}")
    return asked


def asked(count: int, scratch: Path) -> Asked:
    """Ask so many questions, half of them of a proxy and half of the backend."""
    return asyncio.run(_run(count, scratch))
