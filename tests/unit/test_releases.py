"""The inventory's upstreams, held against the releases of a host."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ansible_collections.trollllm.gateway.plugins.filter.releases import longest_timeouts

TIMEOUTS = {"connect": 10, "first_byte": 60, "idle": 120, "total": 3600}


def release(**timeouts: int) -> dict[str, Any]:
    config = {"upstream": "openhands", "timeouts": TIMEOUTS | timeouts, "max_body_bytes": 1 << 29}
    return {"image": "trollllm/goproxy:1", "config": json.dumps(config), "secrets": "s"}


UPSTREAM = {"name": "openhands", "domain": "chat.trollllm.xyz", "timeouts": TIMEOUTS}


@pytest.mark.parametrize(
    ("record", "raised"),
    [
        ({}, {}),
        ({"openhands": {"current": release()}}, {}),
        ({"openhands": {"current": release(first_byte=600)}}, {"first_byte": 600}),  # its new one is not ready
        ({"openhands": {"current": release(), "previous": release(first_byte=600)}}, {"first_byte": 600}),
        (
            {"openhands": {"current": release(idle=900), "previous": release(connect=30, total=60)}},
            {"idle": 900, "connect": 30},
        ),
        ({"openhands": {"current": {"image": "old"}}, "backend": {"current": {"image": "old"}}}, {}),
        ({"another": {"current": release(first_byte=600)}}, {}),
    ],
)
def test_who_stands_before_a_proxy_waits_as_long_as_any_release_that_may_run(
    record: dict[str, Any], raised: dict[str, int]
) -> None:
    assert longest_timeouts([UPSTREAM], record) == {"openhands": TIMEOUTS | raised}


def test_a_timeout_that_the_former_release_did_not_know_is_the_inventorys() -> None:
    former = {"image": "old", "config": json.dumps({"timeouts": {"first_byte": 600}})}
    found = longest_timeouts([UPSTREAM], {"openhands": {"current": former}})
    assert found["openhands"] == TIMEOUTS | {"first_byte": 600}
