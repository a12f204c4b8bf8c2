"""The certificate is renewed on a schedule, and nobody who is being served notices."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from testinfra.host import Host
from witness.edge import Edge
from witness.specification import OHMYGPT, OPENHANDS
from witness.stream import OpenStream

RENEWAL = "/etc/letsencrypt/renewal/trollllm.xyz.conf"
DUE = "renew_before_expiry = 36500 days"


@pytest.fixture
def due(host: Host) -> Iterator[None]:
    """The certificate counts as due for renewal."""
    host.check_output(f"sed -i '1i {DUE}' {RENEWAL}")
    yield
    host.check_output(f"sed -i '/^{DUE}$/d' {RENEWAL}")


def test_renewal_is_scheduled(host: Host) -> None:
    """A timer runs it, and will after the next start of the host."""
    assert host.check_output("systemctl is-enabled certbot-renew.timer") == "enabled"
    assert host.check_output("systemctl is-active certbot-renew.timer") == "active"


@pytest.mark.usefixtures("due")
def test_renewal_swaps_the_served_certificate_and_cuts_no_stream(
    host: Host, edge: Edge, open_stream: Callable[[str], OpenStream]
) -> None:
    """What the timer starts gets a new certificate and has the edge serve it; streams that are open go on."""
    before = edge.handshake(OPENHANDS.domain).certificate
    streams = [open_stream(OPENHANDS.domain), open_stream(OHMYGPT.domain)]
    host.check_output(
        f"sed -i '/^\\[renewalparams\\]/a allow_subset_of_names = True' {RENEWAL}"
    )  # of an order that was killed
    host.check_output("systemctl start certbot-renew.service")
    assert "allow_subset_of_names" not in host.file(RENEWAL).content_string
    after = [edge.handshake(domain).certificate for domain in (OPENHANDS.domain, OHMYGPT.domain)]
    assert after[0] == after[1]
    assert after[0].serial_number != before.serial_number
    for stream in streams:
        stream.wait_for_more()
        stream.assert_complete()


def test_renewal_that_is_not_due_changes_nothing(host: Host, edge: Edge) -> None:
    """The service runs twice a day; on most days it has nothing to do."""
    before = edge.handshake(OPENHANDS.domain).certificate
    host.check_output("systemctl start certbot-renew.service")
    assert edge.handshake(OPENHANDS.domain).certificate == before
