"""Somebody with an API key: plain requests, and the official Python clients.

The official clients are unmodified but for base URL, CA and key; that they do not retry keeps a failure visible.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import anthropic
import httpx2
import openai

from .edge import Edge

MODEL = "claude-sonnet-4-5-20250929"
ANTHROPIC_PATH = "/v1/messages"
OPENAI_PATH = "/v1/chat/completions"
RESPONSES_PATH = "/v1/responses"


def marker() -> str:
    """Make a word that finds one request again among all that a provider received."""
    return f"marker-{uuid.uuid4().hex}"


def body(content: str, *, stream: bool = False, model: str = MODEL, **more: Any) -> dict[str, Any]:
    """Give the body of a message request."""
    messages = [{"role": "user", "content": content}]
    return {"model": model, "max_tokens": 1000, "messages": messages, "stream": stream, **more}


class User:
    """A user of the gateway. Given: the user has a valid API key."""

    def __init__(self, edge: Edge, api_key: str) -> None:
        """Take the key; connections are opened when needed."""
        self.api_key = api_key
        self.http = edge.client()
        self.headers = {"x-api-key": api_key, "anthropic-version": "2023-06-01"}

    def ask(self, domain: str, content: str = "How are you?", **settings: Any) -> httpx2.Response:
        """Send a POST request to https://DOMAIN/v1/messages."""
        return self.post(domain, ANTHROPIC_PATH, body(content, **settings))

    def post(
        self, domain: str, path: str, sent: Mapping[str, Any] | bytes, headers: Mapping[str, str] | None = None
    ) -> httpx2.Response:
        """Send a POST request of JSON, or of bytes as they are."""
        content = {"content": sent} if isinstance(sent, bytes) else {"json": sent}
        headers = {**self.headers, "content-type": "application/json", **(headers or {})}
        return self.http.post(f"https://{domain}{path}", headers=headers, **content)

    @contextmanager
    def stream(self, domain: str, sent: Mapping[str, Any]) -> Iterator[httpx2.Response]:
        """Send a POST request to /v1/messages, and give the response while it is coming."""
        url = f"https://{domain}{ANTHROPIC_PATH}"
        with self.http.stream("POST", url, json=sent, headers=self.headers) as response:
            yield response

    def anthropic(self, domain: str, api_key: str | None = None) -> anthropic.Anthropic:
        """Give Anthropic's client for a domain."""
        return anthropic.Anthropic(
            base_url=f"https://{domain}", api_key=api_key or self.api_key, http_client=self.http, max_retries=0
        )

    def openai(self, domain: str, api_key: str | None = None) -> openai.OpenAI:
        """Give OpenAI's client for a domain."""
        return openai.OpenAI(
            base_url=f"https://{domain}/v1", api_key=api_key or self.api_key, http_client=self.http, max_retries=0
        )
