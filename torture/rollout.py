"""Streams open across everything that an operator changes: none is cut, no event is lost, no request is refused.

The real playbooks against the testkit's VPS. What is counted, and how, is molecule/witness/crowd.py; a sample of this
is the Molecule scenario `rollout`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import testinfra
from deployed.testkit import Testkit

_ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(_ROOT / "molecule"))

from witness.connection import Connection  # noqa: E402 - found by the line above
from witness.crowd import Crowd, Noticed  # noqa: E402
from witness.edge import Edge  # noqa: E402
from witness.playbook import Operator, Run, release  # noqa: E402
from witness.provider import Provider  # noqa: E402
from witness.vps import Vps  # noqa: E402

STREAMS, RELOADS, RENEWALS = 200, 20, 5
_LEAST = 4
_GAP = 1.0
_RENEWAL = "/etc/letsencrypt/renewal/trollllm.xyz.conf"
_DUE = "renew_before_expiry = 36500 days"


@dataclass(frozen=True)
class Operation:
    """Something that an operator does, so many times in a row while the same streams are open."""

    name: str
    act: Callable[[], Run]
    times: int = 1


def measure(size: float, scratch: Path) -> Mapping[str, int | float]:
    """Do all of it on a host that is made for it, and removed."""
    with a_gateway(scratch) as gateway:
        streams, total, operations = max(_LEAST, round(STREAMS * size)), Noticed(), 0
        for operation in _operations(gateway.operator, gateway.vps, size):
            run, noticed = gateway.crowd(streams, _GAP).across(operation.act, gateway.is_leaving)
            print(f"{operation.name}: {noticed}", file=sys.stderr)
            if run.code != 0:
                raise RuntimeError(f"{operation.name} failed:\n{run.output}")
            total += noticed
            operations += operation.times
    return {
        "rollout.streams": streams,
        "rollout.operations": operations,
        "rollout.cut_streams": total.cut_streams,
        "rollout.lost_events": total.lost_events,
        "rollout.gateway_errors": total.gateway_errors,
    }


@dataclass(frozen=True)
class Gateway:
    """One that was deployed to a host of the testkit, and whoever has to do with it."""

    operator: Operator
    connection: Connection
    vps: Vps
    providers: Mapping[str, Provider]

    def crowd(self, streams: int, gap: float) -> Crowd:
        """Users of it."""
        return Crowd(self.connection, Edge(self.connection), self.providers, streams, gap)

    def is_leaving(self) -> bool:
        """Whether a container waits for its last streams."""
        return any(".leaving" in name for name in self.vps.containers())


@contextmanager
def a_gateway(scratch: Path) -> Iterator[Gateway]:
    """Make a host, deploy to it, and remove it in the end."""
    with Testkit(_ROOT, keep=False, name="gateway-torture", network="198.18.80") as testkit, _environment(testkit):
        operator = Operator(scratch, release(scratch))
        operator.succeed("site.yml")
        connection = Connection.read()
        providers = {name: Provider(control) for name, control in connection.providers.items()}
        for provider in providers.values():
            provider.reset()
            provider.behave(gap_ms=2)
        yield Gateway(operator, connection, Vps(testinfra.get_host(f"docker://{connection.vps}")), providers)


@contextmanager
def _environment(testkit: Testkit) -> Iterator[None]:
    """What operator and witnesses go by."""
    before = dict(os.environ)
    os.environ.update(testkit.environment, GATEWAY_CONNECTION=str(testkit.directory / "connection.json"))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _operations(operator: Operator, vps: Vps, size: float) -> Sequence[Operation]:
    def image() -> Run:
        with (operator.project / "proxy_app/goproxy/__init__.py").open("a") as source:
            source.write("# The next release.\n")
        return operator.run("site.yml")

    def configuration() -> Run:
        _edit(operator.upstreams / "openhands.yml", "multiplier_band:", "max_body_mib: 31\n  multiplier_band:")
        return operator.run("site.yml")

    def secret() -> Run:
        _edit(operator.upstreams / "ohmygpt.yml", "vault_ohmygpt_api_key }}", "vault_ohmygpt_api_key }}-next")
        return operator.run("site.yml")

    reloads, renewals = max(1, round(RELOADS * size)), max(1, round(RENEWALS * size))

    def reload() -> Run:
        for _ in range(reloads):
            vps.run("docker exec trollllm-edge nginx -t -q && docker exec trollllm-edge nginx -s reload && sleep 1")
        return Run(0, "")

    def renew() -> Run:
        vps.run(f"sed -i '1i {_DUE}' {_RENEWAL}")
        served = {_served(vps)}
        for _ in range(renewals):
            vps.run("systemctl start certbot-renew.service")
            served.add(_served(vps))
        vps.run(f"sed -i '/^{_DUE}$/d' {_RENEWAL}")
        return Run(0, "") if len(served) == renewals + 1 else Run(1, f"{len(served) - 1} of {renewals} were served")

    return (
        Operation("a new image", image),
        Operation("a new configuration", configuration),
        Operation("a rotated secret", secret),
        Operation("reloads of the edge", reload, reloads),
        Operation("forced renewals", renew, renewals),
        Operation("a rollback", lambda: operator.run("playbooks/rollback.yml", "-e", "upstream=all")),
    )


def _served(vps: Vps) -> str:
    """The fingerprint of the certificate that a new client gets."""
    return vps.run(
        "openssl s_client -connect 127.0.0.1:443 -servername chat.trollllm.xyz </dev/null 2>/dev/null"
        " | openssl x509 -noout -fingerprint -sha256"
    )


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    if old not in text:
        raise LookupError(f"{path} has no {old!r}")
    path.write_text(text.replace(old, new))
