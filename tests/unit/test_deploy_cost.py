"""A run of site.yml has no task that is done once per upstream: what is one call stays one call.

Check mode, on this machine, as if it were a bare host: nothing is changed, and nothing is timed (bench/deploy.py does).
The role docker, which knows no upstreams and wants systemd, is left out.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter

import pytest
import yaml

from real_ansible import REPOSITORY, Ansible

MANY = 9  # more than any task has results of its own
LEFT_OUT = "trollllm.gateway.docker"


def results(ansible: Ansible, upstreams: int, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many results each task gave, items of loops counted one by one."""
    inventory = ansible.directory / f"inventory-{upstreams}"
    shutil.copytree(REPOSITORY / "inventory/demo", inventory)
    folder = inventory / "group_vars/all/upstreams"
    one = yaml.safe_load((folder / "ohmygpt.yml").read_text())["goproxy_upstream__ohmygpt"]
    for path in folder.iterdir():
        path.unlink()
    for number in range(upstreams):
        each = one | {"domain": f"u{number}.{{{{ gateway_zone }}}}", "port": 20000 + number}
        (folder / f"u{number}.yml").write_text(yaml.safe_dump({f"goproxy_upstream__u{number}": each}))
    monkeypatch.setenv("TESTKIT_DIR", str(ansible.directory))
    more = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "gateway_dir": str(ansible.directory / "gateway"),
        "gateway_acme_webroot": str(ansible.directory / "acme"),
        "certbot_venv": str(ansible.directory / "certbot"),
        "gateway_dns_nameservers": ["127.0.0.1:9"],  # nobody answers there, and says so at once
    }
    run = ansible.playbook("site.yml", "-i", str(inventory), "--check", "-e", json.dumps(more))
    assert run.code == 0, run.output
    counted: Counter[str] = Counter()
    for task in run.tasks:
        for result in task["hosts"].values():
            counted[task["task"]["name"]] += len(result.get("results", [None]))
    return counted


def test_no_task_is_done_once_per_upstream(ansible: Ansible, monkeypatch: pytest.MonkeyPatch) -> None:
    ansible.write("hosts.yml", {"all": {}})
    # As a later ansible-core has it: what reads a fact as a variable fails here.
    ansible.write("ansible.cfg", "[defaults]\ninject_facts_as_vars = False\n")
    _validate, deploy = yaml.safe_load((REPOSITORY / "playbooks/site.yml").read_text())
    deploy["roles"].remove(LEFT_OUT)
    deploy["vars_files"] = [str(REPOSITORY / "playbooks" / file) for file in deploy["vars_files"]]
    # Of what stands around the roles, the look at the containers and the table; the zone's note is one file.
    (look,) = (task for task in deploy["pre_tasks"] if "containers" in task["name"])
    (table,) = (task for task in deploy["post_tasks"] if task["name"] == "Show what is there")
    table["ansible.builtin.import_tasks"] = str(REPOSITORY / "playbooks/tasks/status.yml")
    deploy["post_tasks"] = [table]
    deploy["pre_tasks"] = [
        {"ansible.builtin.import_tasks": str(REPOSITORY / "playbooks/tasks/inventory.yml")},
        look,
    ]
    ansible.write("site.yml", [deploy | {"become": False}])
    counted = results(ansible, MANY, monkeypatch)
    assert "trollllm.gateway.goproxy : Make the folder of each journal and of the store" in counted
    assert "Look at what runs" in counted
    assert [count for task, count in counted.items() if "Ask for the containers" in task] == [1]
    assert {task: count for task, count in counted.items() if count >= MANY} == {}
