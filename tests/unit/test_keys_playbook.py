"""`keys.yml`: what it asks the backend for, what it refuses to pass over, and credits that are given once."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from typing import Any

import pytest
import yaml

from ansible_collections.trollllm.gateway.plugins.filter.verb_variables import as_options, untaken
from goproxy.admin.verbs import add_verbs
from real_ansible import REPOSITORY, Ansible, Run

DOCKER = """#!/bin/sh
[ "$*" != "container inspect --format {{{{.State.Status}}}} backend" ] || . {inspection}
cat > /dev/null  # the token: who does not take it breaks the pipe
(IFS=$(printf '\\t') && printf '%s\\n' "$*" >> {calls})
case "$*" in *account\\ add*|*credit*) [ ! -e {refusal} ] || {{ cat {refusal} >&2; exit 1; }} ;; esac
exec cat {answer}
"""
"""Writes down what it is asked for, and fails where it has no answer, or refuses accounts and credits.

What is said of the backend's container is a script of its own."""

QUIET = "trollllm.gateway.quiet"
VERBS = yaml.safe_load((REPOSITORY / "playbooks/keys.yml").read_text())[-1]["vars"]["verbs"]


class Gateway:
    """A host whose Docker only listens."""

    def __init__(self, ansible: Ansible, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ansible = ansible
        self._calls, self.answer = ansible.directory / "calls", ansible.directory / "answer"
        self.refusal = ansible.directory / "refusal"
        self.inspection = ansible.write("inspection", "echo running; exit")
        stub = DOCKER.format(calls=self._calls, answer=self.answer, refusal=self.refusal, inspection=self.inspection)
        docker = ansible.write("bin/docker", stub)
        docker.chmod(0o755)
        monkeypatch.setenv("PATH", str(docker.parent), prepend=":")
        self.variables = {"ansible_become": False, "gateway_operator_token": "operator-CANARY"}
        self.variables |= {"id": "4711", "limit": 3}  # as inventories of a hoster have them: no answer to us
        self.is_reached_by()

    def is_reached_by(self, **variables: Any) -> None:
        """Another way to the host."""
        self._ansible.write("hosts.yml", {"gateway": {"hosts": {"here": self.variables | variables}}})

    def run(self, *options: str, callback: str = QUIET, **variables: Any) -> Run:
        more = ("-e", json.dumps(variables), *options)
        return self._ansible.playbook(REPOSITORY / "playbooks/keys.yml", *more, callback=callback)

    def arguments(self) -> list[list[str]]:
        """What `goproxy admin` was called with."""
        calls = self._calls.read_text().splitlines() if self._calls.exists() else []
        return [call.partition("\tgoproxy\tadmin\t")[2].split("\t") for call in calls]

    def calls(self) -> list[str]:
        """The same as it reads."""
        return [" ".join(arguments) for arguments in self.arguments()]

    def credits(self) -> list[str]:
        """What was asked for about credits."""
        return [call.removeprefix("credit ") for call in self.calls() if call.startswith("credit ")]


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


def test_what_a_grant_was_given_with_is_given_again(gateway: Gateway) -> None:
    """Without the note, the same id stands for another entry; without the force, the wallet may not be there."""
    given: dict[str, Any] = {
        "account": "alice/research",
        "credit": "5",
        "note": "paid cash, it's hers",
        "force": True,
        "id": "g1",
    }
    (options,) = re.findall(r"was given: (-e .*) does not give it twice", gateway.run(verb="grant", **given).output)
    gateway.run(*shlex.split(options))
    assert gateway.credits() == ["grant alice/research 5 --id g1 --note=paid cash, it's hers --force"] * 2


def test_a_credit_of_a_new_account_is_repeated_without_the_note_of_the_account(gateway: Gateway) -> None:
    gateway.answer.write_text("done")
    run = gateway.run(account="alice", credit="5", id="g1", note="of the lab")
    assert "-e verb=grant -e account=alice -e credit=5 -e id=g1 does not give it twice" in run.output


@pytest.mark.parametrize(
    ("variables", "options"),
    [
        ({"verb": "grant", "credit": 2.5, "account": "a@b/c"}, "-e verb=grant -e credit=2.5 -e account=a@b/c"),
        ({"force": True}, "-e force=True"),
        ({"note": "paid cash"}, """-e '{"note": "paid cash"}'"""),
        ({"note": "größer"}, """-e '{"note": "größer"}'"""),
        ({"note": "it's"}, """-e '{"note": "it'"'"'s"}'"""),
        ({"note": "a=b"}, """-e '{"note": "a=b"}'"""),
    ],
)
def test_variables_are_given_again_as_a_shell_and_ansible_read_them(variables: dict[str, Any], options: str) -> None:
    assert as_options(variables) == options


def test_the_first_credit_of_an_account_has_an_id_that_is_shown_as_well(gateway: Gateway) -> None:
    gateway.answer.write_text("done")
    run = gateway.run(account="alice", credit="2.50")
    assert run.code == 0
    assert gateway.credits() == [f"grant alice 2.50 --id {shown_id(run)}"]


def test_a_withdrawal_that_broke_off_is_repeated_as_one_under_the_same_id(gateway: Gateway) -> None:
    broken = gateway.run(verb="withdraw", account="alice", credit="5")
    assert broken.code != 0
    chosen = shown_id(broken)
    assert chosen.startswith("withdrawal_")
    assert f"-e verb=withdraw -e account=alice -e credit=5 -e id={chosen} does not take it twice" in broken.output
    assert gateway.credits() == [f"withdraw alice 5 --id {chosen}"]


READS: list[dict[str, str]] = [
    {"verb": "list"},
    {"verb": "balance"},
    {"verb": "usage"},
    {"verb": "rows", "id": "req_01"},
]


@pytest.mark.parametrize("variables", READS, ids=lambda each: each["verb"])
def test_who_only_reads_changes_nothing(gateway: Gateway, variables: dict[str, str]) -> None:
    gateway.answer.write_text("done")
    run = gateway.run(**variables)
    assert (run.code, "changed=0" in run.output, "-e id=" in run.output) == (0, True, False)


def test_no_id_is_shown_where_there_is_no_credit(gateway: Gateway) -> None:
    gateway.answer.write_text("done")
    run = gateway.run(account="alice")
    assert (run.code, "-e id=" in run.output) == (0, False)


ASKED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a key with everything": (
        {
            "account": "dora",
            "note": "of the lab",
            "key_name": "laptop",
            "expires": "2027-01-31T00:00:00Z",
            "upstream": "openhands",
            "model": "opus",
            "limit": 2.5,
            "renews": "month",
            "requests_per_minute": 60,
            "tokens_per_minute": 1000,
        },
        [
            "account add dora --note=of the lab",
            "key add dora --name=laptop --expires=2027-01-31T00:00:00Z --upstream=openhands --model=opus --limit=2.5"
            " --renews=month --requests-per-minute=60 --tokens-per-minute=1000",
        ],
    ),
    "a key without anything": ({"account": "dora"}, ["account add dora", "key add dora"]),
    "a rotation": (
        {"verb": "rotate", "key": "key_01", "old_expires": "2027-01-31T00:00:00Z"},
        ["key rotate key_01 --old-expires=2027-01-31T00:00:00Z"],
    ),
    "a change": (
        {"verb": "set", "key": "key_01", "limit": 20, "without": "expires,model"},
        ["key set key_01 --limit=20 --without=expires,model"],
    ),
    "a grant": (
        {"verb": "grant", "account": "dora", "credit": 5, "id": "g1", "note": "of May", "force": True},
        ["credit grant dora 5 --id g1 --note=of May --force"],
    ),
    "a withdrawal": (
        {"verb": "withdraw", "account": "dora", "credit": "2.50", "id": "w1", "note": "too much"},
        ["credit withdraw dora 2.50 --id w1 --note=too much"],
    ),
    "what everybody has left": ({"verb": "balance"}, ["credit list"]),
    "what an account has left": ({"verb": "balance", "account": "dora", "json": True}, ["--json credit list dora"]),
    "an end for all keys of an account": ({"verb": "disable", "account": "dora"}, ["account disable dora"]),
    "and no more": ({"verb": "enable", "account": "dora"}, ["account enable dora"]),
    "credit that renews": (
        {"verb": "renew", "account": "dora", "credit": 50, "every": "month", "force": "true"},
        ["credit renew dora 50 --every=month --force"],
    ),
    "credit that renews no more": (
        {"verb": "renew", "account": "dora", "every": "never"},
        ["credit renew dora --every=never"],
    ),
    "usage": (
        {"verb": "usage", "key": "key_01", "upstream": "openhands", "settlement": "exact", "by": "day"},
        ["usage --key=key_01 --upstream=openhands --settlement=exact --by=day"],
    ),
    "rows": (
        {"verb": "rows", "account": "dora", "model": "opus", "since": "2026-11-01", "kind": "request", "limit": 5},
        ["rows --account=dora --model=opus --since=2026-11-01 --kind=request --limit=5"],
    ),
    "rows by their ids": (
        {"verb": "rows", "id": "req_01", "upstream_request_id": "msg_01", "before": "abc"},
        ["rows --id=req_01 --upstream-request-id=msg_01 --before=abc"],
    ),
    "all keys": ({"verb": "list", "json": "true"}, ["--json key list"]),
    "the keys of an account": ({"verb": "list", "account": "dora"}, ["key list dora"]),
}


@pytest.mark.parametrize("case", ASKED)
def test_what_is_given_is_asked_for(gateway: Gateway, case: str) -> None:
    variables, calls = ASKED[case]
    gateway.answer.write_text("done")
    run = gateway.run(**variables)
    assert run.code == 0, run.output
    assert gateway.calls() == calls
    command = argparse.ArgumentParser(exit_on_error=False)
    add_verbs(command)
    for arguments in gateway.arguments():
        command.parse_args(arguments)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a limit that would be none": ({"account": "dora", "limt": 5}, "limt is not known; did you mean limit?"),
    "a report of everybody": ({"verb": "list", "acount": "dora"}, "acount is not known; did you mean account?"),
    "what another verb takes": (
        {"verb": "rotate", "key": "key_01", "expires": "2027-01-31T00:00:00Z"},
        "verb=rotate takes no expires; it takes key, old_expires",
    ),
    "an account from a variable that was empty": ({"verb": "list", "account": ""}, "account has no value; give one"),
    "no account": ({"credit": 5}, "verb=add needs -e account=..."),
    "a renewal without an end or a period": (
        {"verb": "renew", "account": "dora", "credit": 5},
        "verb=renew needs -e account=... -e every=...",
    ),
    "a debt": ({"account": "dora", "credit": -5}, "credit is -5; give an amount in US dollars above 0"),
    "nothing as credit": ({"account": "dora", "credit": "0.00"}, "credit is 0.00; give an amount"),
    "no verb": (
        {"verb": "mint"},
        "verb=mint is not known; choose one of add, list, balance, set, revoke, rotate, disable, enable, grant,"
        " withdraw, renew, usage, rows",
    ),
    "a withdrawal of everything": (
        {"verb": "withdraw", "account": "dora"},
        "verb=withdraw needs -e account=... -e credit=...",
    ),
    "nobody's end": ({"verb": "disable"}, "verb=disable needs -e account=..."),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_passed_over_is_refused_before_anything_is_done(gateway: Gateway, case: str) -> None:
    variables, told = REFUSED[case]
    gateway.answer.write_text("done")
    run = gateway.run(**variables)
    assert run.code != 0
    assert told in run.output
    assert gateway.calls() == []


def test_what_an_inventory_or_ansible_knows_may_be_given_as_well(gateway: Gateway, ansible: Ansible) -> None:
    gateway.answer.write_text("done")
    secrets = ansible.write("secrets.yml", {"vault_operator_token": "operator-CANARY"})
    token = "gateway_operator_token={{ vault_operator_token }}"
    run = gateway.run("-e", f"@{secrets}", "-e", token, "-e", "ansible_become_password=x", verb="list")
    assert (run.code, gateway.calls()) == (0, ["key list"]), run.output


@pytest.mark.parametrize(
    ("verb", "given", "told"),
    [
        ("add", ["account", "credit", "id", "json", "verb", "nginx_memory_limit", "docker_users"], []),
        ("add", ["name"], ["name is not known; did you mean key_name?"]),
        (
            "list",
            ["_raw_params"],
            ["""a value has a space in it; give it as JSON, such as -e '{"note": "paid cash"}'"""],
        ),
        ("add", ["upsteam"], ["upsteam is not known; did you mean upstream?"]),
        ("add", ["expire", "limit"], ["expire is not known; did you mean expires?"]),
        (
            "grant",
            ["limt"],
            ["limt is not known; verb=grant: it takes account, credit, id, force, note"],
        ),
        (
            "list",
            ["account", "acount", "limit"],
            ["acount is not known; verb=list: it takes account", "verb=list takes no limit; it takes account"],
        ),
    ],
)
def test_a_variable_is_refused_with_what_may_have_been_meant(verb: str, given: list[str], told: list[str]) -> None:
    assert untaken(given, verb, VERBS) == told


def refused_at_once(gateway: Gateway) -> str:
    """Why no verb can be done."""
    gateway.answer.write_text("done")
    run = gateway.run(account="dora", credit="5")
    assert (run.code != 0, gateway.calls()) == (True, [])
    assert "operator-CANARY" not in run.output
    return run.output


def test_a_host_that_cannot_be_reached_is_told_with_ssh_s_own_words(gateway: Gateway, ansible: Ansible) -> None:
    ssh = ansible.write("bin/ssh", "#!/bin/sh\necho 'ssh: connect to host 192.0.2.1 port 22: No route' >&2\nexit 255\n")
    ssh.chmod(0o755)
    gateway.is_reached_by(ansible_connection="ssh", ansible_host="192.0.2.1", ansible_ssh_executable=str(ssh))
    told = refused_at_once(gateway)
    assert "connect to host 192.0.2.1 port 22: No route" in told
    assert "here cannot be reached: " in told
    assert "`ssh 192.0.2.1` has to get in from here" in told


def test_a_sudo_that_wants_a_password_is_told_with_the_option_that_gives_one(
    gateway: Gateway, ansible: Ansible
) -> None:
    sudo = ansible.write("bin/sudo", "#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")
    sudo.chmod(0o755)
    gateway.is_reached_by(ansible_become=True, ansible_become_user="nobody", ansible_become_exe=str(sudo))
    told = refused_at_once(gateway)
    assert re.search(r"nothing can be run as root on here: .*a password is required.*add --ask-become-pass", told)


@pytest.mark.parametrize(
    ("inspection", "told"),
    [
        ("echo Cannot connect to Docker >&2; exit 1", "Docker does not answer on here: Cannot connect to Docker. On"),
        (
            "echo Error response from daemon: No such container: backend >&2; exit 1",
            "here has no container `backend`; run site.yml, which makes it",
        ),
        ("echo exited; exit", "the container `backend` of here is exited; on the host `docker logs --tail 50 backend`"),
    ],
)
def test_a_backend_that_is_not_there_is_told_before_anything_is_asked(
    gateway: Gateway, inspection: str, told: str
) -> None:
    gateway.inspection.write_text(inspection)
    assert told in refused_at_once(gateway)


def test_what_failed_has_changed_nothing(gateway: Gateway) -> None:
    run = gateway.run(verb="revoke", key="key_01")
    assert run.code != 0
    assert "here: 1 failures, changed=0" in run.output
    assert "changed  Ask the backend" not in run.output


def test_an_account_that_is_there_is_as_good_and_has_not_changed(gateway: Gateway) -> None:
    gateway.answer.write_text("done")
    gateway.refusal.write_text("there is an account 'dora' already (status 409)")
    run = gateway.run(account="dora")
    assert run.code == 0
    assert "changed=1" in run.output


def test_a_note_is_not_dropped_where_the_account_is_there(gateway: Gateway) -> None:
    gateway.answer.write_text("done")
    gateway.refusal.write_text("there is an account 'dora' already (status 409)")
    run = gateway.run(account="dora", note="of the lab")
    assert run.code != 0
    assert "there is an account dora already, and its note stays as it is; leave out note" in run.output
    assert gateway.calls() == ["account add dora --note=of the lab"]


def test_a_key_is_shown_though_the_credit_was_not_given(gateway: Gateway) -> None:
    """It has been made, and is shown this once or never."""
    gateway.answer.write_text("tg-the-key")
    gateway.refusal.write_text("already, as another entry (status 409)")
    run = gateway.run(account="dora", credit="5", id="invoice-1")
    assert run.code != 0
    assert "tg-the-key" in run.output
    assert "already, as another entry" in run.output


def test_a_value_with_a_space_is_refused_with_the_form_that_takes_it(gateway: Gateway) -> None:
    gateway.answer.write_text("done")
    refused = gateway.run("-e", "note=paid cash", verb="grant", account="dora", credit="5")
    assert refused.code != 0
    assert "_raw_params" not in refused.output
    (form,) = re.findall(r"a value has a space in it; give it as JSON, such as -e '(.*)'", refused.output)
    assert gateway.calls() == []
    assert gateway.run("-e", form, verb="grant", account="dora", credit="5", id="g1").code == 0
    assert gateway.calls() == ["credit grant dora 5 --id g1 --note=paid cash"]


def test_check_mode_is_refused(gateway: Gateway) -> None:
    """Nothing could be shown but an empty answer, and the id of a credit that was not given."""
    gateway.answer.write_text("given")
    run = gateway.run("--check", account="alice", credit="5")
    assert run.code != 0
    assert "run it without --check" in run.output
    assert gateway.calls() == []
