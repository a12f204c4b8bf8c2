"""What each playbook refuses before it goes to a host."""

from __future__ import annotations

from pathlib import Path

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


def test_a_second_host_is_refused(ansible: Ansible) -> None:
    ansible.write("hosts.yml", {"gateway": {"hosts": {"vps": None, "second": None}}})
    run = ansible.playbook(REPOSITORY / "playbooks/keys.yml", callback="ansible.builtin.minimal")
    assert run.code != 0
    assert "The group gateway has 2 hosts" in run.output


def test_every_playbook_looks_for_the_host_first() -> None:
    for playbook in (*PLAYBOOKS, REPOSITORY / "playbooks/site.yml"):
        first = yaml.safe_load(playbook.read_text())[0]
        assert first.get("ansible.builtin.import_playbook") in ("one_host.yml", "validate.yml"), playbook.name
