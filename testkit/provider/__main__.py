"""Run one simulated provider: python3 -m provider --config FILE, or with flags, which win over the file.

The file is a JSON object: name, hosts [], certificate, key, paths {"anthropic": "/v1/messages", "openai": ...,
"responses": ...}, api_key or api_key_file, next_api_key, models [], listen, port, control_port, behaviour {...}.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

from aiohttp import web

from .behaviour import Behaviour
from .control import control
from .server import WIRES, Config, Provider


def read_config(arguments: list[str]) -> Config:
    """Read the file and the flags, or end with what is wrong."""
    parser = argparse.ArgumentParser(prog="provider", description="A simulated LLM provider.")
    parser.add_argument("--config", type=Path, help="JSON file with the settings below")
    parser.add_argument("--name", help="what it calls itself in its answers")
    parser.add_argument("--host", dest="hosts", action="append", help="host name that it answers to; repeat for more")
    parser.add_argument("--certificate", help="PEM file with the chain")
    parser.add_argument("--key", help="PEM file with the private key")
    parser.add_argument("--anthropic", metavar="PATH", help="path of the Messages API")
    parser.add_argument("--openai", metavar="PATH", help="path of the Chat Completions API")
    parser.add_argument("--responses", metavar="PATH", help="path of the Responses API")
    parser.add_argument("--api-key-file", help="file with the key that it expects")
    parser.add_argument("--model", dest="models", action="append", help="model id that it knows; repeat for more")
    parser.add_argument("--listen", help="address to listen on")
    parser.add_argument("--port", type=int, help="TLS port")
    parser.add_argument("--control-port", type=int, help="plain-HTTP port of the control API")
    flags = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    path = flags.pop("config", None)
    settings: dict[str, Any] = json.loads(path.read_text()) if path else {}
    paths = {protocol: flags.pop(protocol) for protocol in WIRES if protocol in flags}
    settings |= flags | ({"paths": paths} if paths else {})
    try:
        if (key_file := settings.pop("api_key_file", None)) is not None:
            settings["api_key"] = Path(key_file).read_text().strip()
        settings["behaviour"] = Behaviour().changed(settings.get("behaviour", {}))
        if unknown := set(settings.get("paths", {})) - set(WIRES):
            raise ValueError(f"paths: {unknown.pop()!r} is no protocol; there are: {', '.join(WIRES)}")
        return Config(**settings)
    except (TypeError, ValueError, OSError) as problem:
        parser.error(str(problem))


async def run(config: Config) -> None:
    """Serve until SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    provider = Provider(config)
    steering = web.AppRunner(control(provider), access_log=None)
    await steering.setup()
    try:
        await provider.start()
        await web.TCPSite(steering, config.listen, config.control_port).start()
        print(f"{config.name}: https on port {config.port}, control on port {config.control_port}", flush=True)
        await stopped.wait()
    finally:
        await provider.stop()
        await steering.cleanup()


if __name__ == "__main__":
    asyncio.run(run(read_config(sys.argv[1:])))
