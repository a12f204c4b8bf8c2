"""The inventory's upstreams, held against the releases of a host."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from ansible_collections.trollllm.gateway.plugins.filter.damage import damage
from ansible_collections.trollllm.gateway.plugins.filter.releases import longest_timeouts, moved, renamed
from real_ansible import REPOSITORY, Ansible

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


@pytest.mark.parametrize(
    ("names", "record", "found"),
    [
        ({"new": "chat"}, {"old": "chat"}, [("chat", "old", "new")]),
        ({"new": "chat", "other": "chat2"}, {"old": "chat", "other": "chat2"}, [("chat", "old", "new")]),
        ({"other": "chat"}, {"old": "chat", "other": "chat2"}, [("chat", "old", "other")]),  # it was there before
        ({"old": "chat"}, {"old": "chat"}, []),
        ({"new": "chat", "old": "chat2"}, {"old": "chat"}, []),  # the old one is there, too: no gap
        ({"new": "chat3"}, {"old": "chat"}, []),  # one goes, one comes
        ({"new": "chat"}, {}, []),
    ],
)
def test_a_domain_that_goes_to_another_name_is_noticed(
    names: dict[str, str], record: dict[str, str], found: list[tuple[str, str, str]]
) -> None:
    upstreams = [{"name": name, "domain": domain} for name, domain in names.items()]
    releases: dict[str, Any] = {
        name: {"current": {"config": json.dumps({"domain": domain})}} for name, domain in record.items()
    }
    releases["backend"] = {"current": {"image": "trollllm/goproxy:1"}}
    assert [(each["domain"], each["former"], each["name"]) for each in renamed(upstreams, releases)] == found


@pytest.mark.parametrize(
    ("previous", "found"),
    [
        ({"config": json.dumps({"port": 8004, "domain": "chat"})}, []),
        ({"config": json.dumps({"port": 8005, "domain": "chat"})}, ["openhands"]),
        ({"config": json.dumps({"port": 8004, "domain": "chat2"})}, ["openhands"]),
        ({"image": "old"}, ["openhands"]),
    ],
    ids=["it stayed", "another port", "another domain", "nothing is known"],
)
def test_an_upstream_with_another_port_or_domain_has_moved(previous: dict[str, str], found: list[str]) -> None:
    now = {"current": {"config": json.dumps({"port": 1, "domain": "other"})}, "previous": previous}
    assert moved([{"name": "openhands", "port": 8004, "domain": "chat"}], {"openhands": now}) == found


def test_what_is_wrong_with_a_file_is_said() -> None:
    assert damage('{"a": {}}\n') == ""
    assert damage("\n") == "it is empty"
    assert damage("[]") == "it is no JSON object"
    assert damage('{"a": ').startswith("it is no JSON (Expecting value: line 1 column")


def test_a_damaged_record_is_named_and_one_that_cannot_be_read_is_not_none(ansible: Ansible) -> None:
    """A run that went on would forget what to go back to."""
    roles = REPOSITORY / "roles"
    judged = yaml.safe_load((roles / "docker/tasks/preflight.yml").read_text())
    (manifest,) = (task for task in judged if task["name"] == "Require that what the role added can be read")
    places = {name: ansible.directory / name for name in ("none", "empty", "unreadable")}
    for place in places.values():
        place.mkdir()
    (places["empty"] / "releases.json").touch()
    (places["unreadable"] / "releases.json").mkdir()
    include = str(roles / "goproxy/tasks/releases.yml")
    reads = [{"include_tasks": include, "vars": {"goproxy_dir": str(place)}} for place in places.values()]
    found = {"__docker_manifest_file": "/m.json", "__docker_reg_found": {"files": {"/m.json": ""}}}
    run = ansible.play([block_of(each) for each in reads] + [manifest | {"vars": manifest["vars"] | found}])
    said = [str(result.get("msg", "")) for task in run.tasks for result in task["hosts"].values()]
    assert f"{places['empty']}/releases.json on here is damaged: it is empty. " in run.output
    assert f"{places['unreadable']}/releases.json" in run.output
    assert said[-1].startswith("/m.json on here is damaged: it is empty. ")
    failed = [task["task"]["name"] for task in run.tasks if task["hosts"].get("here", {}).get("failed")]
    assert failed == ["Require that they can be read", "Read which releases ran before", manifest["name"]]


def block_of(task: dict[str, Any]) -> dict[str, Any]:
    """Goes on where it fails."""
    return {"block": [task], "rescue": [{"meta": "noop"}]}
