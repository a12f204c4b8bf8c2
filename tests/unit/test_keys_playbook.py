"""Credits that are given by `keys.yml`: a run that broke off can be repeated, and the credit is given once."""

from __future__ import annotations

import json
import re

import pytest

from real_ansible import REPOSITORY, Ansible, Run

DOCKER = """#!/bin/sh
cat > /dev/null  # the token: who does not take it breaks the pipe
printf '%s\\n' "$*" >> {calls}
exec cat {answer}
"""
"""Writes down what it is asked for, and fails where there is nothing to answer with."""


class Gateway:
    """A host whose Docker only listens."""

    def __init__(self, ansible: Ansible, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ansible = ansible
        self._calls, self.answer = ansible.directory / "calls", ansible.directory / "answer"
        docker = ansible.write("bin/docker", DOCKER.format(calls=self._calls, answer=self.answer))
        docker.chmod(0o755)
        monkeypatch.setenv("PATH", str(docker.parent), prepend=":")
        variables = {"ansible_become": False, "gateway_operator_token": "operator-CANARY"}
        ansible.write("hosts.yml", {"gateway": {"hosts": {"here": variables}}})

    def run(self, **variables: str) -> Run:
        return self._ansible.playbook(REPOSITORY / "playbooks/keys.yml", "-e", json.dumps(variables))

    def credits(self) -> list[str]:
        """What was asked for about credits."""
        return [call.partition(" credit ")[2] for call in self._calls.read_text().splitlines() if " credit " in call]


@pytest.fixture
def gateway(ansible: Ansible, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    return Gateway(ansible, monkeypatch)


def shown_id(run: Run) -> str:
    (found,) = set(re.findall(r"-e id=(\S+)", run.output))
    return str(found)


def test_a_grant_that_broke_off_is_repeated_under_the_same_id(gateway: Gateway) -> None:
    broken = gateway.run(verb="grant", account="alice", credit="5")
    assert broken.code != 0
    chosen = shown_id(broken)
    gateway.answer.write_text("given")
    again = gateway.run(verb="grant", account="alice", credit="5", id=chosen, force="true")
    assert (again.code, shown_id(again)) == (0, chosen)
    assert gateway.credits() == [f"grant alice 5 --id {chosen}", f"grant alice 5 --id {chosen} --force"]


def test_the_first_credit_of_an_account_has_an_id_that_is_shown_as_well(gateway: Gateway) -> None:
    gateway.answer.write_text("done")
    run = gateway.run(account="alice", credit="2.50")
    assert run.code == 0
    assert gateway.credits() == [f"grant alice 2.50 --id {shown_id(run)}"]


def test_no_id_is_shown_where_there_is_no_credit(gateway: Gateway) -> None:
    gateway.answer.write_text("done")
    run = gateway.run(account="alice")
    assert (run.code, "-e id=" in run.output) == (0, False)
