"""What each playbook refuses before it goes to a host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from real_ansible import REPOSITORY, Ansible

PLAYBOOKS = sorted(
    path for path in (REPOSITORY / "playbooks").glob("*.yml") if path.name not in ("one_host.yml", "site.yml")
)
"""But site.yml, which begins with validate.yml, and whose roles would be loaded each time."""


@pytest.mark.parametrize("playbook", PLAYBOOKS, ids=lambda path: path.stem)
def test_a_run_that_finds_no_host_fails_and_says_so(ansible: Ansible, playbook: Path) -> None:
    """With the group misspelled: Ansible itself would skip the play, and end with success."""
    ansible.write("hosts.yml", {"gatway": {"hosts": {"vps": None}}})
    run = ansible.playbook(playbook, callback="ansible.builtin.minimal")
    assert run.code != 0, run.output
    assert "The group gateway has 0 hosts" in run.output
    assert "gatway" in run.output


@pytest.mark.parametrize("options", [[], ["--limit", "vps"]])
def test_a_second_host_is_refused(ansible: Ansible, options: list[str]) -> None:
    """Though a limit leaves one of them, or leaves out the machine that Ansible runs on."""
    ansible.write("hosts.yml", {"gateway": {"hosts": {"vps": None, "second": None}}})
    run = ansible.playbook(REPOSITORY / "playbooks/keys.yml", *options, callback="ansible.builtin.minimal")
    assert run.code != 0
    assert "The group gateway has 2 hosts" in run.output


def roles(playbook: str) -> list[str]:
    play = yaml.safe_load((REPOSITORY / "playbooks" / playbook).read_text())[-1]
    return [role["role"] if isinstance(role, dict) else role for role in play["roles"]]


def test_a_name_is_led_to_the_host_when_the_edge_answers_there_and_away_before_it_stops() -> None:
    """What works elsewhere would lead to nobody while images are built, and stay so where the run fails."""
    deployed = roles("site.yml")
    assert deployed[-3:] == [f"trollllm.gateway.{name}" for name in ("nginx", "dns", "certbot")]
    assert roles("remove.yml") == deployed[::-1]


@pytest.mark.parametrize("noted", ["", "example.org\n", "example.net\n"])
def test_a_host_is_the_gateway_of_one_zone(ansible: Ansible, noted: str) -> None:
    """Another inventory for the same address replaced all that was there."""
    (ansible.directory / "gateway").mkdir()
    if noted:
        (ansible.directory / "gateway/zone").write_text(noted)
    given = {"gateway_files": str(ansible.directory / "gateway"), "gateway_zone": "example.org"}
    look = {"import_tasks": str(REPOSITORY / "playbooks/tasks/zone.yml"), "vars": given}
    run = ansible.play([look])
    assert (run.code != 0) is ("net" in noted)
    if run.code:
        assert "here is the gateway of example.net" in run.output
        assert "-e zone_was=example.net" in run.output
        assert ansible.play([look], "-e", "zone_was=example.net").code == 0
        assert ansible.play([look], "-e", "zone_was=example.com").code != 0


@pytest.mark.parametrize("playbook", ["site", "remove", "rollback", "restore"])
def test_whose_gateway_it_is_is_asked_before_anything_is_changed(playbook: str) -> None:
    play = yaml.safe_load((REPOSITORY / f"playbooks/{playbook}.yml").read_text())[-1]
    tasks = [*play.get("pre_tasks", []), *play.get("tasks", [])]
    imported = [task.get("ansible.builtin.import_tasks", "") for task in tasks]
    assert imported[: imported.index("tasks/zone.yml")][-1] == "tasks/lock.yml"


def test_what_is_refused_by_a_look_at_the_host_is_refused_before_a_name_leads_there() -> None:
    """Another certbot was, by the last role, when clients had been led to a host without a certificate."""
    play = yaml.safe_load((REPOSITORY / "playbooks/site.yml").read_text())[-1]
    looks = [task["ansible.builtin.import_role"] for task in play["pre_tasks"] if "ansible.builtin.import_role" in task]
    assert [(look["name"].rpartition(".")[2], look["tasks_from"]) for look in looks] == [
        ("nginx", "ports"),
        ("goproxy", "containers"),
        ("certbot", "others"),
    ]
    names = {
        file: [task["name"] for task in yaml.safe_load((REPOSITORY / f"roles/certbot/tasks/{file}.yml").read_text())]
        for file in ("preflight", "others")
    }
    assert [name for name in names["others"] if name.startswith("Refuse")] == [
        "Refuse to stand beside another certbot",
        "Refuse a folder that somebody else made",
        "Refuse to take over the certificate of somebody else",
    ]
    assert "Require the folders that the edge brings" in names["preflight"], "not there yet"


def tasks_here(content: Any) -> Iterator[dict[str, Any]]:
    """The tasks and blocks that are done on this machine in place of the host."""
    if isinstance(content, dict):
        if content.get("delegate_to") == "localhost":
            yield content
        content = list(content.values())
    if isinstance(content, list):
        for each in content:
            yield from tasks_here(each)


def test_what_is_done_on_this_machine_is_never_done_as_another_user() -> None:
    """The keyword become is not enough: group_vars/all is localhost's, too, and its ansible_become beats it."""
    files = [path for folder in ("playbooks", "roles") for path in (REPOSITORY / folder).rglob("*.yml")]
    here = [(path, task) for path in files for task in tasks_here(yaml.safe_load(path.read_text()))]
    assert len(here) >= 6
    asking = [
        f"{path}: {task['name']}" for path, task in here if task.get("vars", {}).get("ansible_become") is not False
    ]
    assert asking == []


def test_every_playbook_looks_for_the_host_first() -> None:
    for playbook in (*PLAYBOOKS, REPOSITORY / "playbooks/site.yml"):
        first = yaml.safe_load(playbook.read_text())[0]
        assert first.get("ansible.builtin.import_playbook") in ("one_host.yml", "validate.yml"), playbook.name
