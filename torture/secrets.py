"""Marked secrets go through every error path that there is; then everything that others may read is searched for them.

The secrets: the providers' keys, the proxies' tokens, the operator's token, clients' keys, a prompt and an answer. The
places: what the processes write, answers to clients, metrics, command lines and environments, journals, the store (in
which clients' keys and tokens stand as digests only), and what Ansible shows of a run in check mode.

A search that looks at nothing finds nothing. So the provider gives its answers a marked id, which is no secret: it is
kept with the row, and must be found in the proxy's journal and in the store, or the part cannot be measured.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from relayed.web import post

from tests.provider import ANTHROPIC_MESSAGE, Provider, Received, Wire, running_provider
from torture.deployment import ADMIN_DOMAIN, DOMAINS, Credentials, Deployment, deployed
from torture.smuggling.corpus import MODEL
from torture.smuggling.sending import Way, sent

_log = logging.getLogger("torture")
_ROOT = Path(__file__).parents[1]
_HOST = DOMAINS["openhands"]
_PATIENCE = 20.0
_ANSWERS = 24
"""Rounds of the provider's faults at size 1."""

_PLANTED_IN = ("backend/backend.sqlite3", "openhands/journal/journal-")
"""Where the provider's id of an answer is kept: a file whose path begins so has it."""


def _mark(kind: str) -> str:
    return f"MARK-{kind}-{secrets.token_hex(12)}"


class _FaultyProvider:
    """Answers in a new way each time, and quotes the prompt that it was sent.

    Not its own key: what a provider writes into an answer is passed on as it is. And its word for an error and its
    usage object are kept in the ledger, so that neither holds a mark.
    """

    def __init__(self, answer: str, planted: str) -> None:
        self.answer = answer
        self.planted = planted
        """Its id of an answer: no secret."""
        self._turn = 0

    async def script(self, request: Received, wire: Wire) -> None:
        """One answer."""
        self._turn += 1
        quoted = json.dumps([self.answer, request.body.decode(errors="replace")])
        error = json.dumps({"type": "error", "error": {"type": "odd", "message": self.answer}}).encode()
        match self._turn % 12:
            case 0:
                message = ANTHROPIC_MESSAGE | {"content": [{"type": "text", "text": self.answer}]}
                await wire.whole(message, 200, ("request-id", self.planted))
            case 1 | 2 | 3 | 4:
                await wire.whole(error, (400, 401, 429, 500)[self._turn % 12 - 1])
            case 5:
                await wire.whole(quoted.encode(), 503, content_type="text/html")
            case 6:
                await wire.send(f"not HTTP at all {self.answer}\r\n\r\n".encode())
                wire.hang_up()
            case 7:
                await wire.begin_stream()
                await wire.chunk(
                    f'event: error\ndata: {{"error":{{"type":"odd","message":"{self.answer}"}}}}\n\n'.encode()
                )
                wire.reset()
            case 8:
                await wire.begin_stream()
                await wire.chunk(f"data: {self.answer}\n\n".encode())
                wire.hang_up()
            case 9:
                await wire.head(200, ("X-Quoted", self.answer), ("Content-Length", "99999"))
                wire.hang_up()
            case 10:
                await wire.send(b"HTTP/1.1 200 OK\r\nX-Bad\x00: " + self.answer.encode() + b"\r\n\r\n")
                wire.hang_up()
            case _:
                await wire.whole(b'{"usage": {"input_tokens": -1}, "content": "' + self.answer.encode() + b'"')


class _Marks:
    """What must be found nowhere, and by what name it is told."""

    def __init__(self, deployment: Deployment, prompt: str, answer: str, bad_key: str) -> None:
        credentials = deployment.credentials
        self.all = {
            "the operator's token": credentials.operator,
            **{f"the key of {name}'s provider": key for name, key in credentials.upstream_keys.items()},
            **{f"the token of {name}'s proxy": token for name, token in credentials.proxy_tokens.items()},
            "a client's key": deployment.key,
            "a key that is not good": bad_key,
            "a prompt": prompt,
        }
        self.answer = answer

    def in_text(self, text: str, *, answer: bool = True) -> list[str]:
        """Which of them stand in a text."""
        found = [name for name, mark in self.all.items() if mark in text]
        return [*found, "an answer"] if answer and self.answer in text else found


async def _ask(session: aiohttp.ClientSession, url: str, method: str = "POST", **options: Any) -> str:
    """The whole answer: status, headers and body, or how it ended."""
    try:
        async with session.request(method, url, **options) as answer:
            headers = "\n".join(f"{name}: {text}" for name, text in answer.headers.items())
            return f"{answer.status}\n{headers}\n{await answer.text(errors='replace')}"
    except (aiohttp.ClientError, TimeoutError) as error:
        return type(error).__name__


async def _drive(deployment: Deployment, marks: _Marks, rounds: int) -> list[str]:
    """Every error path; the answers that clients of the edge and of the private network got."""
    prompt, bad_key = marks.all["a prompt"], marks.all["a key that is not good"]
    body = {"model": MODEL, "max_tokens": 8, "messages": [{"role": "user", "content": prompt}]}
    good = {"x-api-key": deployment.key}
    operator = {"Authorization": f"Bearer {deployment.credentials.operator}"}
    told = []
    edge = f"https://{_HOST}:{deployment.edge_port}"
    proxy = f"http://127.0.0.1:{deployment.proxy_ports['openhands']}"
    backend = f"http://127.0.0.1:{deployment.backend_port}"
    connector = aiohttp.TCPConnector(ssl=deployment.tls(), resolver=_Loopback(), force_close=True)
    timeout = aiohttp.ClientTimeout(total=_PATIENCE)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        for number in range(rounds):
            streams = {"stream": bool(number % 2)}
            for base in (edge, proxy):
                told.append(await _ask(session, f"{base}/v1/messages", json=body | streams, headers=good))
                told.append(await _ask(session, f"{base}/v1/chat/completions", json=body | streams, headers=good))
        for base in (edge, proxy):
            for headers in ({"x-api-key": bad_key}, {"Authorization": f"Bearer {bad_key}"}, {"Authorization": bad_key}):
                told.append(await _ask(session, f"{base}/v1/messages", json=body, headers=headers))
            for odd in (
                {"json": body | {"model": prompt}},
                {"json": body | {"max_tokens": prompt}},
                {"json": [prompt]},
                {"data": prompt.encode()},
                {"data": b"\xff" + prompt.encode()},
                {"json": body, "params": {"q": f"{prompt}{bad_key}"}},
                {"data": prompt.encode() * 60_000},
            ):
                told.append(await _ask(session, f"{base}/v1/messages", headers=good, **odd))
            told.append(
                await _ask(session, f"{base}/v1/messages", headers=good | {"Content-Encoding": prompt}, data=b"x")
            )
            told.append(await _ask(session, f"{base}/v1/models/x?q={prompt}", "GET", headers=good))
            told.append(await _ask(session, f"{base}/nowhere?q={prompt}&key={bad_key}", "GET", headers=good))
        admin = f"https://{ADMIN_DOMAIN}:{deployment.edge_port}"
        for base in (backend, admin):
            for headers in (operator, {"Authorization": f"Bearer {bad_key}"}):
                for path in ("accounts", "credits", "accounts/none/keys", "prices", "rows"):
                    told.append(
                        await _ask(session, f"{base}/admin/v1/{path}", json={"nonsense": prompt}, headers=headers)
                    )
                    told.append(await _ask(session, f"{base}/admin/v1/{path}", "GET", headers=headers))
                told.append(await _ask(session, f"{base}/admin/v1/accounts", data=prompt.encode(), headers=headers))
            for path in ("healthz", "readyz", "metrics"):
                told.append(await _ask(session, f"{base}/{path}", "GET"))
        for path in ("healthz", "readyz", "metrics"):
            told.append(await _ask(session, f"{proxy}/{path}", "GET"))
    garbage = f"POST /v1/messages HTTP/1.1\r\nHost: {_HOST}\r\nx-api-key: {bad_key}\r\nX: \x01{prompt}\r\n\r\n".encode()
    for way in (
        Way(deployment.proxy_ports["openhands"]),
        Way(deployment.backend_port),
        Way(deployment.edge_port, deployment.tls("http/1.1"), _HOST),
    ):
        for data in (
            garbage,
            garbage[:-30],
            f"{prompt} {bad_key}\r\n\r\n".encode(),
            b"x-api-key: " + bad_key.encode() * 900,
        ):
            await sent(way, [data])
    return told


class _Loopback(aiohttp.abc.AbstractResolver):
    """Every name is here."""

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[aiohttp.abc.ResolveResult]:  # noqa: ARG002
        """Loopback."""
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": 2, "proto": 0, "flags": 0}]

    async def close(self) -> None:
        """Nothing to close."""


def _kernels_view(deployment: Deployment) -> Iterator[tuple[str, str]]:
    """What any process list shows."""
    for name, process in deployment.processes.items():
        for file in ("cmdline", "environ"):
            yield f"{file} of {name}", Path(f"/proc/{process.pid}/{file}").read_text(errors="replace")


def _kept(deployment: Deployment) -> Iterator[tuple[str, str]]:
    """Journals and store, byte for byte, and every other file that is left, but for the secrets' own files and the
    logs of the processes, which are places of their own.
    """
    looked_at = {process.log for process in deployment.processes.values()}
    for path in sorted(deployment.directory.rglob("*")):
        place = path.relative_to(deployment.directory)
        is_own = len(place.parts) == 3 and place.parts[0] in DOMAINS and place.parts[1] == "secrets"
        if path.is_file() and not is_own and path not in looked_at:
            yield f"{place}", path.read_bytes().decode("latin-1")


def _must_find(planted: str, places: Sequence[tuple[str, str]]) -> None:
    """What is known to be in store and journals is found there.

    Raises:
        RuntimeError: it is not, so that it says nothing if no secret is found either.
    """
    found = [place for place, text in places if planted in text]
    if missing := [begin for begin in _PLANTED_IN if not any(place.startswith(begin) for place in found)]:
        searched = ", ".join(place for place, _ in places if not place.startswith("answer "))
        raise RuntimeError(f"what was planted is not found in {', '.join(missing)}; searched were {searched}")


def _ansible(scratch: Path) -> Iterator[tuple[str, str, list[str]]]:
    """What a run of the roles' secret-writing tasks shows in check mode, as it is wordiest; and the marks it had."""
    marks = {name: _mark(name) for name in ("operator", "provider", "client")}
    variables = {
        "gateway_operator_token": marks["operator"],
        "goproxy_operator_token": marks["operator"],
        "goproxy_upstream_api_keys": dict.fromkeys(DOMAINS, marks["provider"]),
        "goproxy_dir": str(scratch / "host"),
        "goproxy_api_keys": {},
        "__goproxy_build": {"digest": "0123456789ab"},
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
    }
    file = scratch / "variables.json"
    file.write_text(json.dumps(variables))
    file.chmod(0o600)
    for callback in ("trollllm.gateway.quiet", "ansible.builtin.default"):
        command = [
            str(Path(sys.executable).parent / "ansible-playbook"),
            *("torture/secrets.yml", "-i", "inventory/demo", "--check", "--diff", "-vvv", "-e", f"@{file}"),
        ]
        environment = os.environ | {"TESTKIT_DIR": str(scratch), "ANSIBLE_STDOUT_CALLBACK": callback}
        done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
        if "Write the secrets" not in done.stdout + done.stderr:
            raise RuntimeError(f"the check-mode run did not get to the secrets: {(done.stdout + done.stderr)[-1500:]}")
        yield f"Ansible's output ({callback})", done.stdout + done.stderr, [*marks.values()]


async def _search(size: float, scratch: Path) -> tuple[int, int]:
    """Drive, then search: how many places, and in how many something was found."""
    prompt, answer, planted = _mark("prompt"), _mark("answer"), _mark("planted")
    credentials = Credentials(
        operator=_mark("operator"),
        upstream_keys={name: _mark(f"key-{name}") for name in DOMAINS},
        proxy_tokens={name: _mark(f"token-{name}") for name in DOMAINS},
    )
    provider: Provider
    async with running_provider() as provider:
        provider.script = _FaultyProvider(answer, planted).script
        with deployed(
            scratch / "deployment", provider.url.replace("localhost", "127.0.0.1"), credentials
        ) as deployment:
            marks = _Marks(deployment, prompt, answer, f"{deployment.key[:-6]}{secrets.token_hex(3)}")
            told = await _drive(deployment, marks, max(12, round(_ANSWERS * size)))
            post(deployment.backend_port, "/admin/v1/accounts", credentials.operator, {"name": "carol"})
            places = [(f"answer {number}", text) for number, text in enumerate(told)]
            places += _kernels_view(deployment)
            places += [(f"log of {name}", process.written()) for name, process in deployment.processes.items()]
        # Once more when they have gone: what was buffered is written, and the journals are closed.
        places += [(f"log of {name}, ended", process.written()) for name, process in deployment.processes.items()]
        places += _kept(deployment)
    _must_find(planted, places)
    found = 0
    for place, text in places:
        # A client is told what its provider answered; its own mistakes may be quoted back to it, its keys not.
        is_answer = place.startswith("answer ")
        for name in marks.in_text(text, answer=not is_answer):
            if not (is_answer and name == "a prompt"):
                found += 1
                _log.warning("secrets: %s stands in %s", name, place)
    return len(places), found


def measure(size: float, scratch: Path) -> Mapping[str, int | float]:
    """Drive the secrets through the deployment, and search."""
    places, found = asyncio.run(_search(size, scratch))
    for place, text, marks in _ansible(scratch):
        places += 1
        for mark in marks:
            if mark in text:
                found += 1
                _log.warning("secrets: %s stands in %s", mark, place)
    return {"secrets.places_searched": places, "secrets.found": found}
