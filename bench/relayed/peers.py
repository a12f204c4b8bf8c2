"""What else relays: HAProxy, nginx, LiteLLM, and the least that Python can do, each set up to its advantage.

None of them bills or keeps a ledger.
"""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from relayed.process import CannotMeasure, Process, free_port, interpreter, running

LITELLM = "1.106.0"
LITELLM_KEY = f"sk-{secrets.token_hex(32)}"
"""It starts without one only where it may let everybody in."""

_LITELLM_START = 120.0
_MODEL = "claude-opus-4-5-20251101"

_HAPROXY = """\
global
    nbthread 1
    maxconn 4500
defaults
    mode http
    timeout connect 10s
    timeout client 600s
    timeout server 600s
    option http-no-delay
    http-reuse always
frontend clients
    bind 127.0.0.1:{port}
    default_backend provider
backend provider
    server provider 127.0.0.1:{provider}
"""

_NGINX = """\
daemon off;
pid {directory}/nginx.pid;
error_log stderr error;
worker_processes 1;
{user}
events {{
    worker_connections 9000;
}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests 100000000;
    keepalive_timeout 600s;
    upstream provider {{
        server 127.0.0.1:{address};
        keepalive 4096;
        keepalive_requests 100000000;
        keepalive_timeout 600s;
    }}
    server {{
        {way_in}
        location / {{
            proxy_pass {provider};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_buffer_size 16k;
            proxy_buffers 8 16k;
            proxy_read_timeout 600s;
        }}
    }}
}}
"""

_LITELLM = """\
model_list:
  - model_name: {model}
    litellm_params:
      model: anthropic/{model}
      api_base: http://127.0.0.1:{provider}
      api_key: sk-ant-of-the-measurements-0123456789
general_settings:
  master_key: {key}
litellm_settings:
  drop_params: true
  num_retries: 0
  telemetry: false
"""


@contextmanager
def running_haproxy(directory: Path, provider_port: int, core: int) -> Iterator[tuple[int, Process]]:
    """HAProxy with one thread; the port that it listens on."""
    directory.mkdir(parents=True)
    port, config = free_port(), directory / "haproxy.cfg"
    config.write_text(_HAPROXY.format(port=port, provider=provider_port))
    with running("haproxy", ["haproxy", "-db", "-f", str(config)], core) as process:
        process.await_port(port)
        yield port, process


@contextmanager
def running_nginx(directory: Path, provider_port: int, core: int) -> Iterator[tuple[int, Process]]:
    """nginx with one worker, `proxy_pass` without buffering, and connections to the provider that are kept."""
    port = free_port()
    tree = {"nginx.conf": passing_on(directory, f"listen 127.0.0.1:{port} backlog=4096;", provider_port)}
    with running_nginx_tree("nginx", directory, tree, port, core) as process:
        yield port, process


@contextmanager
def running_nginx_tree(name: str, directory: Path, tree: Mapping[str, str], port: int, core: int) -> Iterator[Process]:
    """nginx with these files."""
    for path, content in tree.items():
        file = directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    command = ["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf"), "-e", "stderr"]
    with running(name, command, core) as process:
        process.await_port(port)
        yield process


def passing_on(directory: Path, way_in: str, provider_port: int, provider: str = "http://provider") -> str:
    """A nginx.conf that passes on all that comes."""
    return _NGINX.format(
        directory=directory, user=user_of_nginx(), way_in=way_in, address=provider_port, provider=provider
    )


def user_of_nginx() -> str:
    """Started by root its workers would be somebody who may not read what is here."""
    return "user root;" if Path("/proc/self").stat().st_uid == 0 else ""


@contextmanager
def running_bare(directory: Path, provider_port: int, core: int) -> Iterator[tuple[int, Process]]:
    """bare.py, with the interpreter and the libraries of the goproxy."""
    directory.mkdir(parents=True)
    port = free_port()
    command = [interpreter(), str(Path(__file__).with_name("bare.py")), str(port), str(provider_port)]
    with running("bare", command, core, {"PYTHONPATH": sysconfig.get_path("purelib")}) as process:
        process.await_port(port)
        yield port, process


@contextmanager
def running_litellm(directory: Path, cache: Path, provider_port: int, core: int) -> Iterator[tuple[int, Process]]:
    """LiteLLM's proxy with one worker, in a virtual environment of its own, with the interpreter of the goproxy.

    Raises:
        CannotMeasure: it cannot be installed, or does not start.
    """
    command = _installed_litellm(cache)
    directory.mkdir(parents=True)
    port, config = free_port(), directory / "litellm.yaml"
    config.write_text(_LITELLM.format(model=_MODEL, provider=provider_port, key=LITELLM_KEY))
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "HOME": str(directory)}
    arguments = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    with running("litellm", [str(command), *arguments], core, environment) as process:
        process.await_port(port, _LITELLM_START)
        yield port, process


def _installed_litellm(cache: Path) -> Path:
    home = cache / f"litellm-{LITELLM}"
    command, mark = home / "bin" / "litellm", home / ".installed"
    if mark.exists():
        return command
    print(f"installing LiteLLM {LITELLM} into {home} (once, some minutes)", file=sys.stderr)
    shutil.rmtree(home, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python")]
    for step in (
        [interpreter(), "-m", "venv", "--without-pip", str(home)],  # a pip of its own is in another Debian package
        [*pip, "install", "--quiet", "--only-binary", ":all:", f"litellm[proxy]=={LITELLM}"],
    ):
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            problem = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise CannotMeasure(f"LiteLLM {LITELLM} cannot be installed: {problem}")
    mark.touch()
    return command


def versions(cache: Path) -> dict[str, str]:
    """Of what is compared."""
    found = {"litellm": LITELLM} if (cache / f"litellm-{LITELLM}" / ".installed").exists() else {}
    for name, command in {"haproxy": ["haproxy", "-v"], "nginx": ["nginx", "-v"], "gcc": ["gcc", "--version"]}.items():
        program = shutil.which(command[0], path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/bin")
        if program is not None:
            done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
            found[name] = _version(done.stdout + done.stderr)
    return found


def _version(text: str) -> str:
    found = re.search(r"\d+\.[\w.+-]+", text)
    return found[0] if found else "unknown"
