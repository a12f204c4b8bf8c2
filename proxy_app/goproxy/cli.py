"""The command line: `goproxy serve`, `backend`, `admin`, and what `goproxy --help` lists besides.

Whatever an operator can get wrong ends in one clear line on standard error and exit code 1. The imports stand inside
the verbs, so that a health check every few seconds does not load a web framework.
"""

from __future__ import annotations

import argparse
import errno
import http.client
import json
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from goproxy import __version__
from goproxy.admin.client import AdminError, backend_url
from goproxy.admin.verbs import add_verbs, run

if TYPE_CHECKING:
    import socket

    from goproxy.config import Config
    from goproxy.control_plane.catalogue import Catalogue
    from goproxy.control_plane.metrics import Metrics
    from goproxy.control_plane.plane import ControlPlane
    from goproxy.control_plane.store.database import Database

_CONFIG_PATH = "/app/config.json"
_KEYS_PATH = "/app/keys/keys.json"
_SECRET_PATH = "/run/secrets/upstream_api_key"  # noqa: S105 - where it is, not what it is
_PROXY_TOKEN_PATH = "/run/secrets/proxy_token"  # noqa: S105
_CA_PATH = "/app/ca"
_JOURNAL_PATH = "/var/lib/goproxy"
_BACKEND_URL = "http://backend:8000"
_STORE_PATH = Path("/var/lib/backend")
_DATABASE_URL_PATH = "/run/secrets/backend_database_url"
_OPERATOR_TOKEN_PATH = "/run/secrets/operator_token"  # noqa: S105
_PROXY_TOKENS_PATH = "/run/secrets/proxy_tokens"
_BACKEND_PORT = 8000
_GRACE_SECONDS = 120.0
_RECYCLE_AFTER_SECONDS = 90.0
"""Longer than a minute, of which the keys' rate limits are: who begins anew has not counted anything."""
_HEALTHCHECK_SECONDS = 5.0
_UNUSABLE = "the store cannot be used"
_DPKG_STATUS = "/var/lib/dpkg/status"
_CONFIG_VARIABLE = re.compile(r"GOPROXY_[A-Z0-9_]+_CONFIG_PATH")


class CannotStart(Exception):
    """What an operator has to put right first."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the result is the process's exit code."""
    chosen = _parser().parse_args(arguments)
    try:
        code: int = chosen.verb(chosen, os.environ)
        sys.stdout.flush()
    except CannotStart as problem:
        print(problem, file=sys.stderr)
        return 1
    except BrokenPipeError:  # who reads our output has read enough, and the interpreter would write the rest at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"nothing more can be written: {error.strerror}", file=sys.stderr)
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="goproxy",
        description="The streaming proxy of one LLM upstream (serve), and accounts, keys and ledger of all of them "
        "(backend, admin).",
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    serve = verbs.add_parser("serve", help="serve the upstream of CONFIG_PATH (data plane)")
    serve.set_defaults(verb=_serve)

    backend = verbs.add_parser("backend", help="keep accounts, keys and the ledger of all upstreams (control plane)")
    backend.set_defaults(verb=_backend)

    admin = verbs.add_parser("admin", help="ask the backend's admin API")
    add_verbs(admin)
    admin.set_defaults(verb=_admin)

    check = verbs.add_parser("check-config", help="say what is wrong with configuration files")
    check.add_argument("files", nargs="+", metavar="FILE", type=Path)
    check.set_defaults(verb=_check_config)

    reach = verbs.add_parser("check-upstream", help="try name, connection and TLS of each endpoint")
    reach.set_defaults(verb=_check_upstream)

    health = verbs.add_parser("healthcheck", help="ask a running goproxy whether it lives")
    health.add_argument("url", nargs="?", metavar="URL", help="default: /healthz of this container")
    health.set_defaults(verb=_healthcheck)

    key = verbs.add_parser("key", help="API keys").add_subparsers(required=True, metavar="VERB")
    key.add_parser("new", help="print a new API key").set_defaults(verb=_key_new)

    book = verbs.add_parser("price-book", help="print entries of the price book, from LiteLLM's list of prices")
    book.add_argument("file", metavar="FILE", type=Path, help="LiteLLM's model_prices_and_context_window.json")
    book.add_argument("models", metavar="MODEL", nargs="+", help="its name there, or a pattern such as 'claude-*'")
    book.add_argument("--day", metavar="YYYY-MM-DD", help="from which the prices hold; default: today, in UTC")
    book.set_defaults(verb=_price_book)

    sbom = verbs.add_parser("sbom", help="print what this image is made of (CycloneDX)")
    sbom.add_argument("--name", default="goproxy", help="of the image; default: goproxy")
    sbom.add_argument(
        "--debian", metavar="FILE", help="another image's /var/lib/dpkg/status, and nothing else; - : stdin"
    )
    sbom.set_defaults(verb=_sbom)
    return parser


def _price_book(chosen: argparse.Namespace, _: Mapping[str, str]) -> int:
    from datetime import UTC, date, datetime

    from goproxy.litellm_prices import UnusablePrices, entries

    try:
        day = date.fromisoformat(chosen.day) if chosen.day else datetime.now(UTC).date()
    except ValueError:
        raise CannotStart(f"--day: {chosen.day!r} is no day; expected one such as 2025-11-24") from None
    try:
        made = entries(chosen.file.read_bytes(), chosen.models, day)
    except OSError as error:
        raise CannotStart(f"{chosen.file}: cannot be read: {error.strerror}") from None
    except UnusablePrices as unusable:
        lines = [f"{chosen.file}: {problem}" for problem in unusable.problems]
        right = "Nothing was printed. Leave these out, or put the provider's own numbers into a copy of the file."
        raise CannotStart("\n".join([*lines, right])) from None
    for note in made.notes:
        print(note, file=sys.stderr)
    print(made.yaml, end="")
    return 0


def _sbom(chosen: argparse.Namespace, _: Mapping[str, str]) -> int:
    from goproxy.bill_of_materials import InvalidPackageList, bill, debian_packages, python_packages

    path = chosen.debian or _DPKG_STATUS
    try:
        status = sys.stdin.read() if path == "-" else Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CannotStart(f"{path} cannot be read: {error}. Expected: Debian's list of packages.") from None
    try:
        debian = list(debian_packages(status))
    except InvalidPackageList as problem:
        raise CannotStart(f"{path}: {problem}. Expected: Debian's list of packages.") from None
    if not debian:
        raise CannotStart(f"{path} names no installed package. Expected: Debian's list, /var/lib/dpkg/status.")
    components = debian if chosen.debian else [*debian, *python_packages()]
    print(json.dumps(bill(chosen.name, __version__, components), indent=1))
    return 0


def _serve(_: argparse.Namespace, environment: Mapping[str, str]) -> int:
    import uvloop

    from goproxy.config import ConfigError
    from goproxy.data_plane.journal import JournalInUse, JournalUnwritable
    from goproxy.data_plane.recycling import Recycling, begin_anew, listeners_of
    from goproxy.data_plane.scoreboard import Place
    from goproxy.data_plane.server import serve, serve_together
    from goproxy.data_plane.upstream import UnusableFile, trust
    from goproxy.data_plane.workers import WorkersFailed
    from goproxy.hosting import Stay
    from goproxy.limits import raise_file_limit
    from goproxy.listening import CannotListen
    from goproxy.observe import start_logging
    from goproxy.watchdog import watched

    try:
        tls = trust(_path(environment, "CA_PATH", _CA_PATH))
        started = _files_of_serve(environment)
    except (ConfigError, UnusableFile) as problem:
        raise CannotStart(problem) from None

    config, secret, proxy_token, _ca = started

    def is_as_started() -> bool:
        with suppress(ConfigError, UnusableFile, OSError):
            return _files_of_serve(environment) == started
        return False

    grace = _number(environment, "GRACE_SECONDS", _GRACE_SECONDS)
    journal = _path(environment, "JOURNAL_PATH", _JOURNAL_PATH)
    quiet = _number(environment, "RECYCLE_AFTER_SECONDS", _RECYCLE_AFTER_SECONDS)
    recycling = Recycling(quiet, is_as_started, journal)
    control_plane = environment.get("BACKEND_URL") or _BACKEND_URL
    try:
        backend_url(control_plane)
        journal.is_dir()  # whether it can be asked: what is missing is made later
    except AdminError as problem:
        raise CannotStart(f"BACKEND_URL: {problem}") from None
    except OSError as error:
        raise CannotStart(f"{journal}: the journal cannot be read: {error.strerror}") from None
    start_logging()
    raise_file_limit()

    def work(place: Place | None = None, sockets: Sequence[socket.socket] = ()) -> int:
        stay = Stay()
        try:
            serving = serve(
                config, secret, tls, grace, journal, control_plane, proxy_token, recycling, stay, place, sockets
            )
            kept = uvloop.run(watched(serving))
        except (JournalInUse, JournalUnwritable) as problem:
            print(problem, file=sys.stderr)
            return 1
        if kept:
            try:
                begin_anew(kept, stay)
            except OSError as problem:
                raise CannotStart(f"{sys.executable} cannot be executed: {problem.strerror}") from None
        return 0

    try:
        if config.processes > 1:
            return serve_together(config.port, config.processes, journal, work)
        return work(sockets=listeners_of(environment, config.port))
    except (CannotListen, WorkersFailed) as problem:
        raise CannotStart(problem) from None


def _files_of_serve(environment: Mapping[str, str]) -> tuple[Config, str, str, list[bytes]]:
    """The configuration, the upstream's key, what is shown to the backend, and the certificates that are trusted, too.

    Raises:
        ConfigError, UnusableFile, OSError: one cannot be read.
    """
    from goproxy.config import load_config
    from goproxy.data_plane.upstream import read_secret

    return (
        load_config(_path(environment, "CONFIG_PATH", _CONFIG_PATH)),
        read_secret(_path(environment, "UPSTREAM_API_KEY_PATH", _SECRET_PATH)),
        read_secret(_path(environment, "PROXY_TOKEN_PATH", _PROXY_TOKEN_PATH)),
        [path.read_bytes() for path in sorted(_path(environment, "CA_PATH", _CA_PATH).glob("*.pem"))],
    )


def _backend(_: argparse.Namespace, environment: Mapping[str, str]) -> int:
    import asyncio

    from goproxy.control_plane.catalogue import Catalogue
    from goproxy.control_plane.metrics import Metrics
    from goproxy.control_plane.server import serve
    from goproxy.limits import raise_file_limit
    from goproxy.listening import CannotListen
    from goproxy.observe import start_logging
    from goproxy.watchdog import watched

    paths = {name: Path(path) for name, path in environment.items() if _CONFIG_VARIABLE.fullmatch(name)}
    if not paths:
        raise CannotStart("no configuration: set GOPROXY_<NAME>_CONFIG_PATH for each upstream to its config.json")
    port = _port(environment)
    grace = _number(environment, "GRACE_SECONDS", _GRACE_SECONDS)
    catalogue = Catalogue(paths)
    catalogue.look()
    if catalogue.problems:
        raise CannotStart("\n".join(catalogue.problems.values()))
    url = _database_url(environment)
    start_logging()
    raise_file_limit()
    os.umask(0o077)  # what the store holds is nobody else's business
    metrics = Metrics()
    database = _database(url, metrics)
    open_plane = partial(_control_plane, catalogue, database, metrics, environment)
    try:
        asyncio.run(watched(serve(catalogue, metrics, database, open_plane, port, grace)))
    except CannotListen as problem:
        raise CannotStart(problem) from None
    return 0


def _database(url: str, metrics: Metrics) -> Database:
    """The store's database, which is not opened yet.

    Raises:
        CannotStart: this is none.
    """
    from goproxy.control_plane.store.database import Database
    from goproxy.control_plane.store.engine import UnusableStore

    try:
        return Database(url, metrics.worked)
    except UnusableStore as problem:
        raise CannotStart(f"{_UNUSABLE}: {problem}") from None


def _control_plane(
    catalogue: Catalogue, database: Database, metrics: Metrics, environment: Mapping[str, str]
) -> ControlPlane:
    """The control plane on its store, once that has today's tables: which may take minutes.

    Raises:
        CannotStart: the store cannot be used.
    """
    from goproxy.control_plane.credentials import ProxyTokens, TokenFile
    from goproxy.control_plane.declared import DeclaredFile
    from goproxy.control_plane.plane import ControlPlane
    from goproxy.control_plane.store.database import StoreUnavailable
    from goproxy.control_plane.store.engine import UnusableStore

    try:
        database.migrate()
        return ControlPlane(
            catalogue,
            database,
            operator=TokenFile(_path(environment, "OPERATOR_TOKEN_PATH", _OPERATOR_TOKEN_PATH)),
            proxies=ProxyTokens(_path(environment, "PROXY_TOKENS_PATH", _PROXY_TOKENS_PATH)),
            declared=DeclaredFile(_path(environment, "KEYS_PATH", _KEYS_PATH)),
            metrics=metrics,
        )
    except (UnusableStore, StoreUnavailable) as problem:
        raise CannotStart(f"{_UNUSABLE}: {problem}") from None


def _database_url(environment: Mapping[str, str]) -> str:
    """Where the store is: as the variable says, or a file of secrets (a URL may hold a password), or SQLite's file.

    Raises:
        CannotStart: nowhere.
    """
    if url := environment.get("BACKEND_DATABASE_URL"):
        return url
    path = _path(environment, "BACKEND_DATABASE_URL_PATH", _DATABASE_URL_PATH)
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        if _STORE_PATH.is_dir() and os.access(_STORE_PATH, os.W_OK):
            return f"sqlite:///{_STORE_PATH}/backend.sqlite3"
        raise CannotStart(f"no store: make {_STORE_PATH} a writable directory, or set BACKEND_DATABASE_URL") from None
    except (OSError, ValueError):
        raise CannotStart(f"{path}: the store's URL cannot be read") from None


def _admin(chosen: argparse.Namespace, environment: Mapping[str, str]) -> int:
    try:
        return run(chosen, environment)
    except AdminError as problem:
        raise CannotStart(problem) from None


def _check_config(chosen: argparse.Namespace, _: Mapping[str, str]) -> int:
    from goproxy.config import ConfigError, load_config

    code = 0
    for path in chosen.files:
        try:
            load_config(path)
        except ConfigError as error:
            print(error, file=sys.stderr)
            code = 1
    return code


def _check_upstream(_: argparse.Namespace, environment: Mapping[str, str]) -> int:
    import asyncio

    from goproxy.config import ConfigError, load_config
    from goproxy.data_plane.reachability import try_endpoints
    from goproxy.data_plane.upstream import UnusableFile, trust

    try:
        config = load_config(_path(environment, "CONFIG_PATH", _CONFIG_PATH))
        tls = trust(_path(environment, "CA_PATH", _CA_PATH))
    except (ConfigError, UnusableFile) as problem:
        raise CannotStart(problem) from None
    found = asyncio.run(try_endpoints(config, tls))
    for reach in found:
        print(json.dumps(asdict(reach)))
    return 0 if all(reach.reachable for reach in found) else 1


def _healthcheck(chosen: argparse.Namespace, environment: Mapping[str, str]) -> int:
    url = chosen.url or f"http://127.0.0.1:{_own_port(environment)}/healthz"
    try:
        status = _status_of(url)
    except ValueError as error:  # its address, port, name or path is none
        raise CannotStart(f"{url}: expected a URL such as http://127.0.0.1:8000/healthz: {error}") from None
    except (OSError, http.client.HTTPException) as error:
        raise CannotStart(f"{url}: no answer: {error}") from None
    if status != 200:
        raise CannotStart(f"{url}: status {status}")
    return 0


def _status_of(text: str) -> int:
    url = urlsplit(text)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=_HEALTHCHECK_SECONDS)
    try:
        connection.request("GET", url.path or "/")
        return connection.getresponse().status
    finally:
        connection.close()


def _own_port(environment: Mapping[str, str]) -> int:
    """The port of what runs in this container: a goproxy where there is a config.json, else the backend."""
    path = _path(environment, "CONFIG_PATH", _CONFIG_PATH)
    try:
        return int(json.loads(path.read_bytes())["port"])
    except FileNotFoundError:
        return _port(environment)
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise CannotStart(f"{path}: no port can be read from it") from None


def _key_new(_: argparse.Namespace, __: Mapping[str, str]) -> int:
    from goproxy.core.keys import new_key

    print(new_key())
    return 0


def _path(environment: Mapping[str, str], name: str, default: str) -> Path:
    return Path(environment.get(name) or default)


def _port(environment: Mapping[str, str]) -> int:
    return int(_number(environment, "BACKEND_PORT", _BACKEND_PORT, expected="a port from 1 to 65535"))


def _number(
    environment: Mapping[str, str], name: str, default: float, *, expected: str = "a number from 0 to below 1e9"
) -> float:
    text = environment.get(name) or str(default)
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number < 1e9:
        raise CannotStart(f"{name} is {text!r}; expected {expected}")
    return number


if __name__ == "__main__":
    sys.exit(main())
