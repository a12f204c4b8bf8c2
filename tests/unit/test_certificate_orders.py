"""The role certbot's orders, by its own tasks, from an authority that does not like some names."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from real_ansible import REPOSITORY, Ansible, Run
from small_authority import SmallAuthority

A, B, NEW, OTHER = "a.example.org", "b.example.org", "new.example.org", "other.example.org"
LETSENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
STAGING = "https://acme-staging-v02.api.letsencrypt.org/directory"


class Orders:
    """A host with the role's venv, and the role that orders there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = SmallAuthority(directory / "letsencrypt")
        self.authority.expect()
        self.authority.program(directory / "venv/bin/certbot")
        shutil.copytree(REPOSITORY / "roles/certbot", directory / "roles/certbot")
        order = directory / "roles/certbot/tasks/order.yml"
        mine = {"owner: root": f"owner: '{os.getuid()}'", "group: root": f"group: '{os.getgid()}'"}
        text = order.read_text()
        for roots, own in mine.items():
            text = text.replace(roots, own)
        order.write_text(text)
        (self.authority.config / "renewal").mkdir()

    def held(self, *names: str, left: float = 60, server: str = LETSENCRYPT, profile: str = "tlsserver") -> None:
        self.authority.put("example.org", list(names), {"server": server, "preferred_profile": profile}, left)

    @property
    def names(self) -> list[str]:
        return self.authority.names("example.org")

    @property
    def refused(self) -> list[str]:
        path = self.authority.config / "renewal/example.org.refused"
        return sorted(json.loads(path.read_text())["names"]) if path.exists() else []

    def run(self, *domains: str, options: tuple[str, ...] = ()) -> Run:
        given = {
            "certbot_domains": list(domains),
            "certbot_lineage": "example.org",
            "certbot_probe": False,
            "certbot_venv": str(self.directory / "venv"),
            "__certbot_config_dir": str(self.authority.config),
            "__certbot_state": str(self.directory / "state"),
            "__certbot_patience": 1,
            "__certbot_python": sys.executable,
        }
        ansible = Ansible(self.directory)
        ansible.write("ansible.cfg", "[connection]\npipelining = true\n")
        ansible.write("given.json", json.dumps(given))
        role = {"name": str(self.directory / "roles/certbot"), "tasks_from": "issue.yml"}
        return ansible.play([{"include_role": role}], "-e", "@given.json", *options)


def warnings(run: Run) -> str:
    said = [result.get("msg") for task in run.tasks for result in task["hosts"].values() if not result.get("skipped")]
    return "\n".join(text for text in said if isinstance(text, str) and text.startswith("WARNING"))


@pytest.fixture
def orders(tmp_path: Path) -> Orders:
    return Orders(tmp_path)


def test_the_first_certificate_is_for_the_names_that_the_authority_can_validate(orders: Orders) -> None:
    """And an account that the authority has forgotten is made anew."""
    account = orders.authority.config / "accounts/acme-v02.api.letsencrypt.org/directory"
    account.mkdir(parents=True)
    orders.authority.expect(refuses=[B], says="urn:ietf:params:acme:error:accountDoesNotExist")
    run = orders.run(A, B)
    assert run.code == 0, run.output
    assert orders.authority.orders == [[A, B], [A, B]]
    assert not account.exists()
    assert (orders.names, orders.refused) == ([A], [B])
    assert f"could not validate {B}; the certificate was issued without" in warnings(run)


def test_a_new_name_that_fails_is_left_out_of_a_second_order(orders: Orders) -> None:
    orders.held(A, B)
    orders.authority.expect(refuses=[NEW])
    run = orders.run(A, B, NEW, OTHER)
    assert run.code == 0, run.output
    assert orders.authority.orders == [[A, B, NEW, OTHER], [A, B, OTHER]]
    assert (orders.names, orders.refused) == ([A, B, OTHER], [NEW])
    assert f"could not validate {NEW}; the certificate was issued without" in warnings(run)
    assert f"CAA record for {NEW} prevents issuance" in warnings(run)


def test_nothing_is_ordered_when_only_new_names_were_to_be_and_fail(orders: Orders) -> None:
    orders.held(A, B)
    orders.authority.expect(refuses=[NEW])
    run = orders.run(A, B, NEW)
    assert run.code == 0, run.output
    assert orders.authority.orders == [[A, B, NEW]]
    assert (orders.names, orders.refused) == ([A, B], [NEW])
    assert f"could not validate {NEW}; the certificate of before stays, for {A}, {B}." in warnings(run)


def test_a_name_that_the_certificate_has_is_not_dropped_for_a_new_one(orders: Orders) -> None:
    """One bad moment of b's name servers is no reason to take b off for two days."""
    orders.held(A, B)
    orders.authority.expect(refuses=[B])
    run = orders.run(A, B, NEW)
    assert run.code == 0, run.output
    assert orders.authority.orders == [[A, B, NEW]]
    assert (orders.names, orders.refused) == ([A, B], [])
    assert f"validate {B}; the certificate of before stays, for {A}, {B}, and {NEW} must wait for that." in warnings(
        run
    )


def test_a_name_that_the_certificate_has_and_that_fails_in_the_second_order_is_kept(orders: Orders) -> None:
    orders.held(A, B)
    said = f'An unexpected error occurred:\nError creating new order :: Cannot issue for "{NEW}": forbidden by policy'
    orders.authority.expect(refuses=[B], says=said)
    run = orders.run(A, B, NEW, OTHER)
    assert run.code == 0, run.output
    assert orders.authority.orders == [[A, B, NEW, OTHER], [A, B, OTHER]]
    assert (orders.names, orders.refused) == ([A, B], [NEW])
    assert f"could not validate {NEW}, {B}; the certificate of before stays" in warnings(run)
    assert "forbidden by policy" in warnings(run)


def test_names_may_be_dropped_only_when_what_is_held_is_worth_nothing(tmp_path: Path) -> None:
    """Or ends soon: in the last sixth of the lifetime a renewal drops them as well."""
    cases: dict[str, tuple[float, str, str]] = {
        "valid": (16, LETSENCRYPT, "False"),
        "the last sixth": (14, LETSENCRYPT, "True"),
        "ended": (-1, LETSENCRYPT, "True"),
        "trusted by nobody": (60, STAGING, "True"),
        "of another authority": (60, "https://acme.example.net/dir", "False"),
    }
    role = REPOSITORY / "roles/certbot"
    tasks: list[dict[str, Any]] = [{"include_vars": str(role / f"{part}/main.yml")} for part in ("defaults", "vars")]
    tasks.append({"set_fact": {"certbot_domains": [A, B]}})
    for left, server, _ in cases.values():
        held = {"present": True, "names": [A, B], "key_type": "ecdsa", "lifetime_days": 90.0, "days_left": left}
        held["renewal"] = {"server": server, "preferred_profile": "tlsserver"}
        tasks.append({"debug": {"msg": "{{ __certbot_subset }}"}, "vars": {"__certbot_reg_certificate": held}})
    said = Ansible(tmp_path).play(tasks).tasks[3:]
    assert dict(zip(cases, [str(task["hosts"]["here"]["msg"]) for task in said], strict=True)) == {
        case: subset for case, (_, _, subset) in cases.items()
    }


def test_what_is_said_of_no_name_fails_the_run(orders: Orders) -> None:
    orders.held(A)
    orders.authority.expect(says="too many certificates already issued")
    run = orders.run(A, NEW)
    assert run.code != 0
    assert "too many certificates already issued" in run.output
    assert orders.names == [A]


def test_an_order_waits_for_the_certbot_that_is_at_work(orders: Orders) -> None:
    """The timer's, say. certbot itself would not, and the run would fail."""
    orders.held(A)
    lock = orders.directory / "state/certbot.lock"
    lock.parent.mkdir()
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        run = orders.run(A, NEW)
    assert run.code != 0
    assert "another certbot has been at work for 1 s; try again when it has ended" in run.output
    assert orders.authority.orders == []


def test_a_trial_orders_nothing(orders: Orders) -> None:
    orders.held(A)
    run = orders.run(A, NEW, options=("--check",))
    assert run.code == 0, run.output
    assert (orders.names, orders.authority.orders) == ([A], [])


def test_a_profile_has_room_for_25_names_and_a_certificate_for_100(tmp_path: Path) -> None:
    """Let's Encrypt's limits; another authority may put more on one."""
    role = REPOSITORY / "roles/certbot"
    (limit,) = (
        task for task in yaml.safe_load((role / "tasks/preflight.yml").read_text()) if "no more names" in task["name"]
    )
    told = {"debug": {"msg": "{{ '--preferred-profile' in __certbot_command, __certbot_reasons }}"}}
    tasks: list[dict[str, Any]] = [{"include_vars": str(role / f"{part}/main.yml")} for part in ("defaults", "vars")]
    elsewhere = "https://acme.example.net/dir"
    cases = ((25, "tlsserver", LETSENCRYPT), (26, "", LETSENCRYPT), (101, "", elsewhere), (101, "", LETSENCRYPT))
    for count, profile, server in cases:
        held = {"present": True, "names": [A], "key_type": "ecdsa", "lifetime_days": 90.0, "days_left": 60.0}
        given = {
            "certbot_domains": [f"{number}.example.org" for number in range(count)],
            "certbot_directory": server,
            "certbot_lineage": "example.org",
            "__certbot_asked": [A],
            "__certbot_reg_certificate": held | {"renewal": {"server": server, "preferred_profile": profile}},
        }
        tasks += [{"set_fact": given}, told, limit]
    results = [task["hosts"]["here"] for task in Ansible(tmp_path).play(tasks).tasks[2:]]
    assert [result["msg"] for result in results[1::3]] == [[True, []], [False, []], [False, []], [False, []]]
    assert [result.get("failed", False) for result in results[2::3]] == [False, False, False, True]
    assert "certbot_domains has 101 names, and Let's Encrypt puts 100 on a certificate" in results[-1]["msg"]
