"""What the role goproxy makes of the inventory: its compose file, its sets of files, its record of releases.

(That Compose takes it, and what the containers do then, is Molecule's.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from real_ansible import REPOSITORY, Ansible

ROLE = REPOSITORY / "roles/goproxy"
ODD_NAMES = ("360", "01", "0x10", "0o17", "1e3", "1-1", "2026-11-29", "on", "no", "y", "true", "null", "all")
"""Names that an upstream may have, and that YAML takes for something else than text."""


def upstream(name: str, port: int, **other: Any) -> dict[str, Any]:
    """As check_inventory gives it to the roles."""
    return {
        "name": name,
        "domain": f"{name}.trollllm.xyz",
        "port": port,
        "service": f"goproxy-{name}",
        "uid": 10000 + port,
        "ttl": 300,
        "endpoints": [],
        "multiplier_band": [1, 2],
        "models": [],
        "timeouts": {"connect": 10, "first_byte": 300, "idle": 120, "total": 3600},
        "max_body_mib": 32,
        "wallet": None,
        "include_usage": True,
        "chat_limit": "either",
        "staleness_seconds": 3600,
        "processes": 1,
        "disconnect": {"policy": "drain", "seconds": 600, "max_mib": 16, "concurrent": 256},
    } | other


ODD = [upstream(name, 9000 + number) for number, name in enumerate(ODD_NAMES)]


def rendered(folder: Path, upstreams: list[dict[str, Any]], **variables: Any) -> dict[str, Any]:
    """Every template of the role, read as the role reads it."""
    ansible = Ansible(folder)
    ansible.write("hosts.yml", {"all": {"hosts": {"here": None}}})
    names = [each["name"] for each in upstreams]
    given = {
        "ansible_managed": "Managed by Ansible",
        "goproxy_upstreams": upstreams,
        "goproxy_upstream_api_keys": dict.fromkeys(names, "sk-provider"),
        "goproxy_operator_token": "operator-token",
        "__goproxy_build": {"digest": "0123456789ab"},
        **variables,
    }
    play = {
        "hosts": "all",
        "gather_facts": False,
        "vars_files": [
            str(ROLE / "defaults/main.yml"),
            str(ROLE / "vars/main.yml"),
            str(ansible.write("given.yml", given)),
        ],
        "tasks": [
            {
                "name": "The releases of the inventory",
                "ansible.builtin.set_fact": {"__goproxy_releases": template("releases.yml.j2")},
            },
            {
                "name": "All",
                "ansible.builtin.debug": {
                    "msg": {
                        "releases": "{{ __goproxy_releases }}",
                        "record": template("record.yml.j2"),
                        "compose": template("docker-compose.prod.yml.j2"),
                        "configurations": template("config-files.yml.j2"),
                        "folders": template("data-folders.yml.j2"),
                        "secrets": template("secret-files.yml.j2"),
                    }
                },
            },
            {
                "name": "A rollback",
                "ansible.builtin.debug": {"msg": template("rollback.yml.j2")},
                "vars": {
                    "goproxy_rollback": names,
                    "__goproxy_record": {
                        name: {"current": {"image": "new", "secrets": "s"}, "previous": {"image": "old"}}
                        for name in names
                    },
                },
            },
        ],
    }
    ansible.write("play.yml", [play])
    run = ansible.playbook("play.yml")
    assert run.code == 0, run.output
    results = [task["hosts"]["here"] for task in run.tasks]
    return {**results[-2]["msg"], "rollback": results[-1]["msg"]}


def template(name: str) -> str:
    return f"{{{{ lookup('ansible.builtin.template', '{ROLE}/templates/{name}') | from_yaml }}}}"


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    given_on_the_command_line = {"goproxy_stop_grace_seconds": "300", "goproxy_nofile_limit": "4096"}
    return rendered(tmp_path_factory.mktemp("odd"), ODD, **given_on_the_command_line)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_upstream_may_have_any_name_that_the_inventory_may_give_it(odd: dict[str, Any], name: str) -> None:
    for what in ("releases", "record", "rollback"):
        assert name in odd[what], what
    assert odd["releases"][name]["image"] == "trollllm/goproxy:0123456789ab"
    assert yaml.safe_load(odd["releases"][name]["config"])["upstream"] == name
    assert odd["record"][name]["current"] == odd["releases"][name]
    assert odd["rollback"][name] == {"image": "old", "secrets": "s"}
    assert f"config-{name}-prod.json" in [file["path"] for file in odd["configurations"]]
    assert f"/opt/trollllm/data/{name}" in [folder["path"] for folder in odd["folders"]]
    assert f"{name}/proxy_token" in [file["path"] for file in odd["secrets"]]
    service = odd["compose"]["services"][f"goproxy-{name}"]
    assert service["labels"]["xyz.trollllm.upstream"] == name
    assert service["container_name"] == f"goproxy-{name}"
    assert [entry["source"] for entry in service["secrets"]] == [f"{name}_upstream_api_key", f"{name}_proxy_token"]
    assert f"{name}_proxy_token_digest" in odd["compose"]["secrets"]


def test_all_that_compose_reads_as_text_is_text(odd: dict[str, Any]) -> None:
    for service in odd["compose"]["services"].values():
        for mapping in (service["labels"], service["environment"]):
            assert {type(text) for pair in mapping.items() for text in pair} == {str}


def test_a_number_may_come_as_text_as_the_command_line_gives_it(odd: dict[str, Any]) -> None:
    service = odd["compose"]["services"][f"goproxy-{ODD_NAMES[0]}"]
    assert (service["stop_grace_period"], service["ulimits"]["nofile"]) == ("310s", 4096)


def test_a_name_without_a_dot_is_asked_of_no_name_server_outside(odd: dict[str, Any]) -> None:
    """Docker leaves out a search domain of ".", and keeps to itself what has fewer dots than a given ndots."""
    for service in odd["compose"]["services"].values():
        assert (service["dns_search"], service["dns_opt"]) == (["."], ["ndots:1"])
