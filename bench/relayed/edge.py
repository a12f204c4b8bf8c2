"""The edge without a container: the tree that the role trollllm.gateway.nginx renders, at addresses of this machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from relayed.peers import user_of_nginx
from relayed.process import CannotMeasure, free_port

_ROOT = Path(__file__).parents[2]


def upstream(name: str, domain: str, port: int) -> dict[str, Any]:
    """What the role knows of an upstream, whose goproxy listens on a port of this machine."""
    return {
        "name": name,
        "domain": domain,
        "service": "127.0.0.1",
        "port": port,
        "max_body_mib": 32,
        "timeouts": {"connect": 10, "first_byte": 60, "idle": 60, "total": 600},
    }


def edge_tree(
    directory: Path,
    upstreams: Iterable[Mapping[str, Any]],
    port: int,
    chain: Path,
    key: Path,
    *,
    plain_port: int = 0,
    backend_port: int = 0,
    **variables: Any,
) -> dict[str, str]:
    """The role's tree for an nginx in `directory`, with a certificate; `variables` are the role's.

    The limits per client address are off unless they are among them: all clients have one address here.

    Raises:
        CannotMeasure: it cannot be rendered.
    """
    directory.mkdir(parents=True, exist_ok=True)
    version = subprocess.run(["/usr/sbin/nginx", "-V"], capture_output=True, text=True, check=False).stderr
    destination = directory / "rendered.json"
    given = {
        "goproxy_upstreams": list(upstreams),
        "nginx_connections_per_address": 0,
        "nginx_requests_per_second": 0,
        "nginx_ipv6": "disabled",
        "ansible_managed": "For a measurement.",
        "__nginx_reg_host": {"stdout": "cpus: 1"},
        "__nginx_reg_image": {"rc": 0, "stderr": version},
        "edge_destination": str(destination),
    }
    playbook = str(Path(__file__).parent / "edge.yml")
    command = [str(Path(sys.executable).parent / "ansible-playbook"), playbook, "-e", json.dumps(given | variables)]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotMeasure(f"the edge's configuration cannot be rendered: {(done.stdout + done.stderr)[-2000:]}")
    tree = {file["path"]: file["content"] for file in json.loads(destination.read_text())["files"]}
    places = {
        r"/etc/nginx-tls/fullchain\.pem": str(chain),
        r"/etc/nginx-tls/privkey\.pem": str(key),
        r"^pid .*;": f"pid {directory / 'nginx.pid'};",
        r"^worker_processes .*;": f"worker_processes 1;\n{user_of_nginx()}",
        r"^(\s*listen) 443\b": rf"\1 127.0.0.1:{port}",
        r"^(\s*listen) 80\b": rf"\1 127.0.0.1:{plain_port or free_port()}",
        r"^(\s*listen) 127\.0\.0\.1:8081\b": rf"\1 127.0.0.1:{free_port()}",
        r"\bhttp://backend:8000\b": f"http://127.0.0.1:{backend_port or free_port()}",
    }
    for pattern, instead in places.items():
        tree = {path: re.sub(pattern, instead, content, flags=re.MULTILINE) for path, content in tree.items()}
    return tree
