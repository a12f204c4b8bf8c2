"""The command line: every verb, and that a mistake is one clear line."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import trustme

from goproxy.cli import main
from goproxy.core.keys import is_well_formed
from tests.gateway import Running, config_document, endpoints_at
from tests.process import free_port
from tests.provider import Provider, running_provider


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Everything that `serve` needs, in order."""
    (tmp_path / "config.json").write_text(json.dumps(config_document()))
    (tmp_path / "secret").write_text("sk-CANARY\n")
    (tmp_path / "token").write_text("proxy-token\n")
    (tmp_path / "ca").mkdir()
    variables = {
        "CONFIG_PATH": str(tmp_path / "config.json"),
        "UPSTREAM_API_KEY_PATH": str(tmp_path / "secret"),
        "PROXY_TOKEN_PATH": str(tmp_path / "token"),
        "JOURNAL_PATH": str(tmp_path / "journal"),
        "CA_PATH": str(tmp_path / "ca"),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a verb that must fail; what it said, which is one line."""
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "CANARY" not in said.err
    return said.err


def test_a_new_key_is_printed_and_well_formed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "new"]) == 0
    assert is_well_formed(capsys.readouterr().out.rstrip("\n"))


def test_check_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad, absent = tmp_path / "good.json", tmp_path / "bad.json", tmp_path / "absent.json"
    good.write_text(json.dumps(config_document()))
    bad.write_text(json.dumps(config_document(port=0, domain="x")))
    assert main(["check-config", str(good)]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["check-config", str(good), str(bad), str(absent)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f'{bad}: domain: "x" will not do; expected a host name in lower case such as chat.example.org',
        f"{bad}: port: 0 will not do; expected a whole number from 1 to 65535",
        f"{absent}: cannot be read: No such file or directory",
    ]


def test_serve_without_a_configuration(environment: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    Path(environment["CONFIG_PATH"]).unlink()
    assert "config.json: cannot be read: No such file or directory" in complaint(capsys, "serve")


def test_serve_with_a_bad_configuration(environment: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    Path(environment["CONFIG_PATH"]).write_text(json.dumps(config_document(port=0)))
    assert "config.json: port: 0 will not do" in complaint(capsys, "serve")


def test_serve_without_a_secret(environment: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    Path(environment["UPSTREAM_API_KEY_PATH"]).unlink()
    assert "secret: the secret cannot be read: No such file or directory" in complaint(capsys, "serve")


@pytest.mark.parametrize("secret", [b"", b"\n", b"sk-CANARY\nsk-other", b"sk CANARY", b"\xff\xfe"])
def test_serve_with_a_secret_that_is_none(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str], secret: bytes
) -> None:
    Path(environment["UPSTREAM_API_KEY_PATH"]).write_bytes(secret)
    assert "secret: holds no secret; expected one line" in complaint(capsys, "serve")


def test_serve_with_a_ca_that_is_none(environment: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    (Path(environment["CA_PATH"]) / "company.pem").write_text("nothing")
    assert "company.pem: no CA certificate can be read from it" in complaint(capsys, "serve")


def test_serve_on_a_port_that_is_taken(environment: dict[str, str], provider_port: int) -> None:
    Path(environment["CONFIG_PATH"]).write_text(json.dumps(config_document(port=provider_port)))
    ended = subprocess.run([sys.executable, "-m", "goproxy.cli", "serve"], capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stderr) == (
        1,
        f"port {provider_port} cannot be listened on: Address already in use\n",
    )


@pytest.fixture
def provider_port(provider: Provider) -> int:
    return provider.port


@pytest.mark.parametrize("grace", ["soon", "-1", "nan"])
def test_serve_with_a_grace_period_that_is_none(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, grace: str
) -> None:
    monkeypatch.setenv("GRACE_SECONDS", grace)
    assert complaint(capsys, "serve") == f"GRACE_SECONDS is {grace!r}; expected a number from 0 to below 1e9\n"


NO_BACKEND_URLS = [
    "http://[",
    "http://backend:99999",
    "backend:8000",
    "ftp://x",
    "http://operator:CANARY@backend",
    "http://backend?x",
    "http://a..b",
    f"http://{'a' * 70}",
]


@pytest.mark.parametrize("url", NO_BACKEND_URLS)
def test_serve_with_a_backend_that_has_no_url(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("BACKEND_URL", url)
    said = complaint(capsys, "serve")
    assert said.startswith("BACKEND_URL: ")
    assert "expected the backend's URL" in said


def test_serve_with_a_journal_whose_name_is_too_long(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_PATH", "/" + "j" * 300)
    assert "the journal cannot be read: File name too long" in complaint(capsys, "serve")


def test_backend_without_configurations(capsys: pytest.CaptureFixture[str]) -> None:
    assert complaint(capsys, "backend").startswith("no configuration: set GOPROXY_<NAME>_CONFIG_PATH")


def test_backend_with_a_bad_configuration(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOPROXY_OPENHANDS_CONFIG_PATH", environment["CONFIG_PATH"] + ".absent")
    assert "config.json.absent: cannot be read: No such file" in complaint(capsys, "backend")


def test_backend_without_a_store(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOPROXY_OPENHANDS_CONFIG_PATH", environment["CONFIG_PATH"])
    monkeypatch.setattr("goproxy.cli._STORE_PATH", Path(environment["CONFIG_PATH"]).parent / "absent")
    assert "absent a writable directory, or set BACKEND_DATABASE_URL" in complaint(capsys, "backend")


def test_the_backend_runs_and_leaves(environment: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    variables = os.environ | {
        "BACKEND_DATABASE_URL": f"sqlite:///{tmp_path}/backend.sqlite3",
        "GOPROXY_OPENHANDS_CONFIG_PATH": environment["CONFIG_PATH"],
        "CONFIG_PATH": "/nowhere",
        "BACKEND_PORT": str(port),
    }
    command = [sys.executable, "-m", "goproxy.cli"]
    limited = ["sh", "-c", 'ulimit -Sn 256 && exec "$@"', "sh", *command, "backend"]
    with subprocess.Popen(limited, env=variables, stdout=subprocess.PIPE, text=True) as backend:
        assert backend.stdout is not None
        while json.loads(backend.stdout.readline())["event"] != "listening":
            pass
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/admin/v1/catalogue") as answer:
            assert json.load(answer)["upstreams"][0]["upstream"] == "openhands"
        healthy = subprocess.run([*command, "healthcheck"], env=variables, timeout=30, check=False)
        assert healthy.returncode == 0
        soft, hard = resource.prlimit(backend.pid, resource.RLIMIT_NOFILE)
        assert soft == hard > 256
        backend.send_signal(signal.SIGTERM)
        assert backend.wait(timeout=30) == 0
        assert [json.loads(line)["event"] for line in backend.stdout] == ["leaving", "left"]


async def test_a_healthcheck_fails_and_says_why_unless_the_answer_is_200(
    gateway: Running, environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    async def check(*arguments: str) -> int:
        return await asyncio.to_thread(main, ["healthcheck", *arguments])

    Path(environment["CONFIG_PATH"]).write_text(json.dumps({"port": gateway.port}))
    assert await check() == 0
    assert await check(f"{gateway.url}/healthz") == 0
    assert await check(f"{gateway.url}/nope") == 1
    assert capsys.readouterr().err == f"{gateway.url}/nope: status 404\n"
    assert await check(f"http://127.0.0.1:{free_port()}/healthz") == 1
    assert "no answer" in capsys.readouterr().err
    assert await check("http://127.0.0.1:99999/healthz") == 1
    assert "Port out of range" in capsys.readouterr().err
    for text in ("{", '{"port": 1e400}', '{"port":' * 100_000):
        Path(environment["CONFIG_PATH"]).write_text(text)
        assert await check() == 1
        assert "no port can be read" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["http://[::1/", f"http://{'a' * 70}/", "/ä", "http://127.0.0.1:1/ä"])
def test_healthcheck_of_what_is_no_url(capsys: pytest.CaptureFixture[str], url: str) -> None:
    assert complaint(capsys, "healthcheck", url).startswith(f"{url}: expected a URL")


def test_a_verb_whose_reader_has_read_enough_leaves_without_a_word(tmp_path: Path) -> None:
    packages = [f"Package: p{n}\nVersion: 1\nArchitecture: all\nStatus: install ok installed\n" for n in range(2000)]
    (tmp_path / "status").write_text("\n".join(packages))
    command = [sys.executable, "-m", "goproxy.cli", "sbom", "--debian", str(tmp_path / "status")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as listing:
        assert listing.stdout is not None
        assert listing.stderr is not None
        listing.stdout.close()
        assert listing.stderr.read() == b""
    assert listing.returncode == 128 + signal.SIGPIPE


def test_output_to_a_full_disk_is_an_error_of_one_line() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([sys.executable, "-m", "goproxy.cli", "key", "new"], stdout=full, stderr=-1, check=False)
    assert (done.returncode, done.stderr) == (1, b"nothing more can be written: No space left on device\n")


def test_a_verb_that_is_interrupted_leaves_without_a_word(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("goproxy.core.keys.new_key", interrupted)
    assert main(["key", "new"]) == 128 + signal.SIGINT
    assert capsys.readouterr() == ("", "")


def test_a_healthcheck_loads_no_web_framework() -> None:
    """It runs every few seconds in every container."""
    code = (
        "import sys; from goproxy.cli import main; main(['healthcheck', 'http://127.0.0.1:1/']); "
        "sys.exit('aiohttp' in sys.modules or 'asyncio' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, check=False).returncode == 0


async def test_check_upstream(environment: dict[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)

    async def check(url: str) -> tuple[int, list[dict[str, Any]]]:
        document = config_document(endpoints=[*endpoints_at(url, "anthropic"), refused])
        Path(environment["CONFIG_PATH"]).write_text(json.dumps(document))
        code = await asyncio.to_thread(main, ["check-upstream"])
        return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    refused = {
        "name": "openhands-openai",
        "protocol": "openai",
        "base_url": f"https://localhost:{free_port()}/v1/chat/completions",
    }
    async with running_provider(context) as provider:
        code, (first, second) = await check(provider.url)
        assert (code, first["reachable"]) == (1, False)
        assert "its certificate is not trusted" in first["detail"]
        assert second == {
            "endpoint": "openhands-openai",
            "host": "localhost",
            "port": int(refused["base_url"].split(":")[2].partition("/")[0]),
            "reachable": False,
            "detail": "connection refused",
        }
        authority.cert_pem.write_to_path(str(tmp_path / "ca" / "testkit.pem"))
        refused["base_url"] = f"{provider.url}/v1/chat/completions"
        code, (first, second) = await check(provider.url)
        assert (code, first) == (
            0,
            {
                "endpoint": "openhands-anthropic",
                "host": "localhost",
                "port": int(provider.url.rpartition(":")[2]),
                "reachable": True,
                "detail": "connected, TLSv1.3",
            },
        )
        assert provider.received == []


async def test_check_upstream_with_a_name_that_does_not_resolve(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = {"name": "e", "protocol": "anthropic", "base_url": "https://nowhere.invalid/v1/messages"}
    Path(environment["CONFIG_PATH"]).write_text(json.dumps(config_document(endpoints=[endpoint])))
    began = time.monotonic()
    assert await asyncio.to_thread(main, ["check-upstream"]) == 1
    assert time.monotonic() - began < 5
    assert json.loads(capsys.readouterr().out)["reachable"] is False
