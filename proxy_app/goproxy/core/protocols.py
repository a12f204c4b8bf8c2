"""The wire protocols that there are, by name."""

from __future__ import annotations

from collections.abc import Mapping

from goproxy.core.anthropic import Anthropic
from goproxy.core.openai import OpenAI
from goproxy.core.responses import Responses
from goproxy.core.wire import WireProtocol

ANTHROPIC: WireProtocol = Anthropic()
OPENAI: WireProtocol = OpenAI()
RESPONSES: WireProtocol = Responses()

PROTOCOLS: Mapping[str, WireProtocol] = {protocol.name: protocol for protocol in (ANTHROPIC, OPENAI, RESPONSES)}
