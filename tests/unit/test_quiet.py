"""What an operator sees: changes, reports, failures with their reason, long steps as they go; and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from real_ansible import Ansible, encrypt

QUIET = "trollllm.gateway.quiet"


def test_prints_changes_and_reports_only(ansible: Ansible) -> None:
    tasks: list[dict[str, Any]] = [
        {"name": "nothing to do", "ansible.builtin.ping": None},
        {"name": "not today", "ansible.builtin.ping": None, "when": False},
        {"name": "do it", "ansible.builtin.command": "true"},
        {"name": "tell", "ansible.builtin.debug": {"msg": ["a  table", "of lines"]}},
    ]
    run = ansible.play(tasks, callback=QUIET)
    assert run.code == 0
    assert "  changed  do it\na  table\nof lines\n" in run.output
    assert "nothing to do" not in run.output
    assert "not today" not in run.output
    assert "changed=1" in run.output  # Molecule's idempotence check looks for this


def test_a_document_can_be_cut_out_as_the_page_says(ansible: Ansible) -> None:
    """Also where the run fails after it, as status.yml does."""
    page = Path(__file__).parents[2] / "docs/troubleshooting.md"
    (script,) = re.findall(r"\| sed -n '([^']+)'", page.read_text())
    shown = {"problems": ["a { in the middle"], "found": {"alpha": {"ready": True}}}
    tasks: list[dict[str, Any]] = [
        {"name": "do it", "ansible.builtin.command": "true"},
        {"name": "tell", "ansible.builtin.debug": {"msg": "{{ shown | to_nice_json }}"}, "vars": {"shown": shown}},
        {"name": "fail", "ansible.builtin.fail": {"msg": "1 of the things above are not well."}},
    ]
    run = ansible.play(tasks, callback=QUIET)
    cut = subprocess.run(["sed", "-n", script], input=run.output, capture_output=True, text=True, check=True)
    assert json.loads(cut.stdout) == shown


def test_a_failure_comes_with_its_reason(ansible: Ansible) -> None:
    tasks = [{"name": "break", "ansible.builtin.command": "sh -c 'echo the reason >&2; exit 3'"}]
    run = ansible.play(tasks, callback=QUIET)
    assert run.code != 0
    assert "FAILED   break [here]" in run.output
    assert "the reason" in run.output


def test_a_failure_that_is_not_to_be_logged_comes_with_its_reason_and_nothing_else(ansible: Ansible) -> None:
    for content, reason in (("{{ nowhere }}", "'nowhere' is undefined"), ("secret", "/proc/none")):
        copy = {"content": content, "dest": "/proc/none/file"}
        run = ansible.play([{"name": "hide", "ansible.builtin.copy": copy, "no_log": True}], callback=QUIET)
        assert run.code != 0
        assert reason in run.output
        assert "secret" not in run.output


def test_a_rescued_failure_is_one_line(ansible: Ansible) -> None:
    inner = {"name": "try", "ansible.builtin.fail": {"msg": "told by the rescue"}}
    rescue = {"name": "deal with it", "ansible.builtin.debug": {"msg": "dealt with"}}
    run = ansible.play([{"block": [inner], "rescue": [rescue]}], callback=QUIET)
    assert run.code == 0
    assert "failed   try (what follows deals with it)" in run.output
    assert "told by the rescue" not in run.output


def test_a_long_step_is_named_while_it_runs(ansible: Ansible, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_QUIET_PATIENCE", "1")
    run = ansible.play([{"name": "sleep", "ansible.builtin.command": "sleep 3"}], callback=QUIET)
    assert "... sleep (" in run.output


def test_a_variable_file_that_is_not_yaml_is_named(ansible: Ansible) -> None:
    """ansible-core 2.19 only says that it could not parse something."""
    ansible.write("group_vars/all/upstreams/third.yml", "goproxy_upstream__third:\n  port: 8006\n domain: x\n")
    run = ansible.play([{"name": "nothing", "ansible.builtin.ping": None}], callback=QUIET)
    assert run.code != 0
    assert "group_vars/all/upstreams/third.yml is not YAML (line 3, column 2)" in run.output


def test_a_template_without_quotes_is_named(ansible: Ansible) -> None:
    """Which is YAML, and still nothing that Ansible can read."""
    ansible.write("group_vars/all/upstreams/third.yml", "goproxy_upstream__third:\n  api_key: {{ vault_x }}\n")
    run = ansible.play([{"name": "nothing", "ansible.builtin.ping": None}], callback=QUIET)
    assert run.code != 0
    told = 'group_vars/all/upstreams/third.yml has a template without quotes in line 2; quote it: "{{ ... }}"'
    assert told in run.output


def test_a_vault_whose_password_is_missing_or_wrong_is_named(ansible: Ansible) -> None:
    """That of a group which is not ours may have another one."""
    password = ansible.write("password", "correct horse battery staple\n")
    vault = ansible.write("group_vars/all/vault.yml", encrypt("vault_x: 1\n", password, "encrypt"))
    ansible.write("group_vars/elsewhere/vault.yml", vault.read_text())
    tasks: list[dict[str, Any]] = [{"name": "nothing", "ansible.builtin.ping": None}]
    run = ansible.play(tasks, callback=QUIET)
    assert run.code != 0
    assert f"{vault} is encrypted; give the vault password: --ask-vault-pass or --vault-password-file" in run.output, (
        run.output
    )
    other = ansible.write("other", "incorrect horse\n")
    run = ansible.play(tasks, "--vault-password-file", str(other), callback=QUIET)
    assert run.code != 0
    assert f"{vault} cannot be decrypted; the vault password is another one" in run.output
    assert "elsewhere" not in run.output
    run = ansible.play(tasks, "--vault-password-file", str(password), callback=QUIET)
    assert run.code == 0
    assert "vault.yml" not in run.output


def test_verbose_prints_all(ansible: Ansible) -> None:
    run = ansible.play([{"name": "nothing to do", "ansible.builtin.ping": None}], "-v", callback=QUIET)
    assert "nothing to do" in run.output
