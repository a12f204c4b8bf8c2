"""What a goproxy and its backend are given, as their containers are: files, and variables that say where they are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path


def backend_environment(
    home: Path, port: int, configs: Mapping[str, Path], operator: str, proxy_tokens: Mapping[str, str], keys: Path
) -> dict[str, str]:
    """Of a backend that has its things in `home`; `configs` and `proxy_tokens` are by upstream."""
    for upstream, token in proxy_tokens.items():
        _secret(home / "tokens" / upstream, _digest(token))
    return {
        **{f"GOPROXY_{upstream.upper()}_CONFIG_PATH": str(path) for upstream, path in configs.items()},
        "BACKEND_PORT": str(port),
        "BACKEND_DATABASE_URL": f"sqlite:///{home / 'backend.sqlite3'}",
        "OPERATOR_TOKEN_PATH": _secret(home / "operator", _digest(operator)),
        "PROXY_TOKENS_PATH": str(home / "tokens"),
        "KEYS_PATH": str(keys),
        "GRACE_SECONDS": "5",
        "TMPDIR": str(home),
    }


def proxy_environment(home: Path, config: Path, api_key: str, token: str, backend_port: int) -> dict[str, str]:
    """Of a goproxy that has its things in `home`; `api_key` is that of its provider."""
    (home / "journal").mkdir(parents=True, exist_ok=True)
    return {
        "CONFIG_PATH": str(config),
        "UPSTREAM_API_KEY_PATH": _secret(home / "secrets" / "upstream_api_key", api_key),
        "PROXY_TOKEN_PATH": _secret(home / "secrets" / "proxy_token", token),
        "CA_PATH": str(home / "ca"),
        "JOURNAL_PATH": str(home / "journal"),
        "BACKEND_URL": f"http://127.0.0.1:{backend_port}",
        "GRACE_SECONDS": "5",
    }


def _secret(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
