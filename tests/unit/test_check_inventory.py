"""The action check_inventory, run by the real ansible-playbook from an inventory on disk."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from real_ansible import REPOSITORY, Ansible, Run, encrypt
from sound_inventory import ALICE, BOB, PROVIDER_KEY, Inventory

CHECK = {"name": "Check the inventory", "trollllm.gateway.check_inventory": None}
SHOW = {"name": "Show the fact", "ansible.builtin.debug": {"var": "goproxy_upstreams"}}
# No machine answers under this name: the action must not even try.
UNREACHABLE = {"gateway": {"hosts": {"vps": {"ansible_connection": "ssh", "ansible_host": "vps.invalid"}}}}
VARS = "group_vars/all"
SECRETS = (PROVIDER_KEY, ALICE, BOB, "c2VjcmV0LXRzaWctYnl0ZXM=")


def on_disk(ansible: Ansible, inventory: Inventory, vault: dict[str, Any] | None = None) -> None:
    """Lay the inventory out as an operator does: a file per upstream, secrets behind vault_ variables."""
    ansible.write("hosts.yml", UNREACHABLE)
    settings = {**inventory.settings, "gateway_api_keys": "{{ vault_api_keys }}"}
    settings["gateway_dns_credentials"]["key_secret"] = "{{ vault_dns_key_secret }}"
    ansible.write(f"{VARS}/main.yml", settings)
    ansible.write(f"{VARS}/price_book.yml", {"goproxy_price_book": inventory.price_book})
    for name, upstream in inventory.upstreams.items():
        upstream["domain"] = upstream["domain"].replace("trollllm.xyz", "{{ gateway_zone }}")
        upstream["api_key"] = f"{{{{ vault_{name}_api_key }}}}"
        ansible.write(f"{VARS}/upstreams/{name}.yml", {f"goproxy_upstream__{name}": upstream})
    secrets: dict[str, Any] = {f"vault_{name}_api_key": PROVIDER_KEY for name in inventory.upstreams}
    secrets["vault_dns_key_secret"] = SECRETS[3]
    secrets["vault_api_keys"] = {"alice": ALICE, "bob": BOB}
    ansible.write(f"{VARS}/vault.yml", {**secrets, **(vault or {})})


def test_a_copied_file_must_name_its_own_upstream(ansible: Ansible, inventory: Inventory) -> None:
    """Else the copy would silently replace the upstream that it was copied from."""
    on_disk(ansible, inventory)
    copied = {**inventory.upstreams["openhands"], "domain": "chat3.{{ gateway_zone }}", "port": 8006}
    ansible.write(f"{VARS}/upstreams/third.yml", {"goproxy_upstream__openhands": copied})
    run = ansible.play([CHECK])
    assert run.code != 0
    assert run.result["problems"] == [
        f"{VARS}/upstreams/third.yml: holds goproxy_upstream__openhands; "
        "let its one variable be goproxy_upstream__third"
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("openhands.yml", ""),
        ("openhands.yml", "---\n"),
        ("openhands.yml", "# goproxy_upstream__openhands:\n#   port: 8004\n"),
        ("openhands.yml", "shared: {}\n"),
        ("europe/openhands.yaml", ""),
    ],
)
def test_a_file_without_its_upstream_is_refused(ansible: Ansible, inventory: Inventory, name: str, text: str) -> None:
    """site.yml would remove the upstream."""
    on_disk(ansible, inventory)
    (ansible.directory / VARS / "upstreams/openhands.yml").unlink()
    ansible.write(f"{VARS}/upstreams/{name}", text)
    run = ansible.play([CHECK])
    assert run.code != 0
    assert run.result["problems"] == [
        f"{VARS}/upstreams/{name}: does not define goproxy_upstream__openhands; "
        "write it there, or delete the file to remove the upstream"
    ]


@pytest.mark.parametrize("name", ["openhands.yml.txt", "openhands.YML", "old.d/openhands.yml"])
def test_a_file_that_ansible_passes_over_is_refused(ansible: Ansible, inventory: Inventory, name: str) -> None:
    on_disk(ansible, inventory)
    upstreams = ansible.directory / VARS / "upstreams"
    (upstreams / name).parent.mkdir(exist_ok=True)
    (upstreams / "openhands.yml").rename(upstreams / name)
    run = ansible.play([CHECK])
    assert run.code != 0
    assert run.result["problems"] == [
        f"{VARS}/upstreams/{name}: is passed over by Ansible, because of its name; "
        "name it openhands.yml, or take it out of the folder to have no such upstream"
    ]


def test_what_ansible_skips_is_no_upstream(ansible: Ansible, inventory: Inventory) -> None:
    """An editor's lock, macOS's AppleDouble file, backups: also the callback has nothing to say of them."""
    on_disk(ansible, inventory)
    upstreams = ansible.directory / VARS / "upstreams"
    (upstreams / ".#openhands.yml").symlink_to("ada@laptop.4711:1")
    (upstreams / "._openhands.yml").write_bytes(b"\x00\x05\x16\x07\xa3")
    (upstreams / "openhands.yml~").write_text("a: [")
    (upstreams / "openhands.yml.bak").write_text("a: [")
    (upstreams / ".drafts").mkdir()
    (upstreams / ".drafts/third.yml").write_text("a: [")
    run = ansible.play([CHECK], callback="trollllm.gateway.quiet")
    assert run.code == 0, run.output
    assert "openhands.yml" not in run.output
    assert "third.yml" not in run.output


def test_a_file_that_cannot_be_read_is_a_problem_with_its_path(ansible: Ansible, inventory: Inventory) -> None:
    """In the folder of a group that no host is in, so that Ansible has not failed yet."""
    on_disk(ansible, inventory)
    latin = ansible.write(f"{Path(VARS).parent}/elsewhere/upstreams/third.yml", "")
    latin.write_bytes("# für alle\n".encode("latin-1"))
    run = ansible.play([CHECK])
    assert run.code != 0
    (problem,) = run.result["problems"]
    assert problem.startswith("group_vars/elsewhere/upstreams/third.yml: cannot be read ('utf-8' codec")


def test_a_key_that_is_written_twice_is_a_problem(ansible: Ansible, inventory: Inventory) -> None:
    """Ansible warns, and takes the last one. Also in an encrypted file, and with whichever callback."""
    on_disk(ansible, inventory)
    openhands = ansible.directory / VARS / "upstreams/openhands.yml"
    openhands.write_text(f"{openhands.read_text()}  multiplier_band: [1.06, 1.08]\n")
    password = ansible.write("password", "correct horse battery staple\n")
    vault = ansible.directory / VARS / "vault.yml"
    vault.write_text(encrypt(f"{vault.read_text()}  bob: {ALICE}\n", password, "encrypt"))
    run = ansible.play([CHECK], "--vault-password-file", str(password))
    assert run.code != 0
    written = openhands.read_text().splitlines()
    first = written.index("  multiplier_band:") + 1
    assert run.result["problems"] == [
        "gateway_api_keys: bob: is the key of alice too; give each account a key of its own",
        f"{VARS}/upstreams/openhands.yml: line {len(written)}: goproxy_upstream__openhands.multiplier_band is there "
        f"already, in line {first}; leave one of them out",
        f"{VARS}/vault.yml: line 7: vault_api_keys.bob is there already, in line 6; leave one of them out",
    ]


def shows_no_secret(run: Run) -> bool:
    return not [secret for secret in SECRETS if secret in run.output]


@pytest.mark.parametrize("options", [[], ["--check", "--diff"]], ids=["run", "check"])
def test_a_sound_inventory_becomes_the_fact(ansible: Ansible, inventory: Inventory, options: list[str]) -> None:
    on_disk(ansible, inventory)
    run = ansible.play([CHECK, SHOW], *options)
    assert run.code == 0, run.output
    upstreams = run.result["goproxy_upstreams"]
    assert [(upstream["name"], upstream["domain"]) for upstream in upstreams] == [
        ("ohmygpt", "chat2.trollllm.xyz"),
        ("openhands", "chat.trollllm.xyz"),
    ]
    assert upstreams[1]["models"][0]["prices"][0]["tiers"][0]["cache_write_5m"] == 6.25
    checked = next(iter(run.tasks[0]["hosts"].values()))
    assert checked["changed"] is False
    assert checked["msg"] == "The inventory is fine: ohmygpt (chat2.trollllm.xyz), openhands (chat.trollllm.xyz)"
    assert shows_no_secret(run)


def test_the_roles_find_the_variable_where_facts_are_none(ansible: Ansible, inventory: Inventory) -> None:
    """As a later ansible-core has it."""
    on_disk(ansible, inventory)
    ansible.write("ansible.cfg", "[defaults]\ninject_facts_as_vars = False\n")
    ansible.write("show.yml", [
        {"name": "Validate", "ansible.builtin.import_playbook": str(REPOSITORY / "playbooks/validate.yml")},
        {"hosts": "gateway", "gather_facts": False, "tasks": [SHOW]},
    ])  # fmt: skip
    run = ansible.playbook("show.yml")
    assert run.code == 0, run.output
    assert [upstream["name"] for upstream in run.result["goproxy_upstreams"]] == ["ohmygpt", "openhands"]


def test_validate_says_which_upstreams_there_are(ansible: Ansible, inventory: Inventory) -> None:
    """Also with the quiet callback: nobody would miss one whose file went, until site.yml removed it."""
    on_disk(ansible, inventory)
    run = ansible.playbook(REPOSITORY / "playbooks/validate.yml", callback="trollllm.gateway.quiet")
    assert run.code == 0, run.output
    assert "The inventory is fine: ohmygpt (chat2.trollllm.xyz), openhands (chat.trollllm.xyz)\n" in run.output


def test_every_problem_is_told_at_once_one_a_line(ansible: Ansible, inventory: Inventory) -> None:
    inventory.spoil(("upstreams", "openhands", "models", "opus", "multiplier"), 1.2)
    inventory.spoil(("upstreams", "ohmygpt", "ttl"), 60)
    inventory.spoil(("settings", "gateway_ipv4"), "203.0.113.10")
    on_disk(ansible, inventory, {"vault_ohmygpt_api_key": "CHANGE-ME"})
    run = ansible.play([CHECK])
    assert run.code == 2
    assert run.result["msg"].splitlines() == [
        "The inventory has 4 problems; nothing was touched.",
        "  gateway_ipv4: is 203.0.113.10, a placeholder (an address for documentation); "
        "give the public IPv4 address of the host",
        "  ohmygpt: api_key: is a placeholder; put the provider's key into the vault",
        "  ohmygpt: ttl: is 60; give 300 to 3600 seconds",
        "  openhands: models.opus.multiplier: multiplier of opus is 1.2, outside the band 1.06-1.08; "
        "give one inside it, or change multiplier_band",
    ]
    assert "ansible_facts" not in run.result
    assert [f"  {line}" for line in run.result["problems"]] == run.result["msg"].splitlines()[1:]


def test_an_undefined_variable_is_one_problem_among_the_others(ansible: Ansible, inventory: Inventory) -> None:
    on_disk(ansible, inventory)
    vault = ansible.directory / VARS / "vault.yml"
    secrets = yaml.safe_load(vault.read_text())
    del secrets["vault_openhands_api_key"], secrets["vault_api_keys"]
    ansible.write(f"{VARS}/vault.yml", secrets)
    ansible.write(
        f"{VARS}/more.yml", {"gateway_dns_ttl": "{{ ttls.short }}", "ttls": {"long": 3600}, "gateway_dir": "/"}
    )
    right = "define it (secrets: in group_vars/all/vault.yml), or correct its name"
    run = ansible.play([CHECK])
    assert run.code == 2
    assert run.result["problems"] == [
        f"gateway_api_keys: refers to vault_api_keys, which is not defined; {right}",
        'gateway_dir: is "/"; give an absolute path of its own, like /opt/trollllm, of letters, digits, . _ and -',
        f"gateway_dns_ttl: refers to short, a key that is not there; {right}",
        f"openhands: api_key: refers to vault_openhands_api_key, which is not defined; {right}",
    ]


def test_an_expression_that_fails_does_not_quote_the_secret(ansible: Ansible, inventory: Inventory) -> None:
    on_disk(ansible, inventory)
    inventory.upstreams["openhands"]["api_key"] = (
        "{{ vault_openhands_api_key | to_datetime }}"  # "time data 'sk-...' does not match"
    )
    inventory.upstreams["openhands"]["domain"] = "{{ vault_openhands_api_key | unknown_filter }}"
    inventory.upstreams["openhands"]["port"] = "{{ vault_openhands_api_key | int(base='x') }}"
    inventory.upstreams["openhands"]["ttl"] = "{{ unclosed"
    ansible.write(f"{VARS}/upstreams/openhands.yml", {"goproxy_upstream__openhands": inventory.upstreams["openhands"]})
    run = ansible.play([CHECK], "-vvvv", callback="default")
    assert run.code == 2
    assert run.output.count("cannot be templated") >= 4
    assert shows_no_secret(run)


def test_templates_keep_the_types_of_what_they_refer_to(ansible: Ansible, inventory: Inventory) -> None:
    on_disk(ansible, inventory)
    inventory.upstreams["openhands"]["port"] = "{{ first_port + 4 }}"
    inventory.upstreams["openhands"]["timeouts"] = "{{ slow }}"
    day = datetime.date(2025, 11, 24)  # YAML without quotes
    inventory.price_book["opus"]["prices"][1]["effective_from"] = day
    ansible.write(f"{VARS}/price_book.yml", {"goproxy_price_book": inventory.price_book})
    ansible.write(f"{VARS}/upstreams/openhands.yml", {"goproxy_upstream__openhands": inventory.upstreams["openhands"]})
    ansible.write(f"{VARS}/more.yml", {"first_port": 8000, "slow": {"idle": "{{ minutes * 60 }}"}, "minutes": 5})
    run = ansible.play([CHECK, SHOW])
    assert run.code == 0, run.output
    assert run.result["goproxy_upstreams"][1]["port"] == 8004
    assert run.result["goproxy_upstreams"][1]["timeouts"]["idle"] == 300
    assert run.result["goproxy_upstreams"][1]["models"][0]["prices"][0]["effective_from"] == "2025-11-24"


def test_vaulted_values_and_vaulted_files(ansible: Ansible, inventory: Inventory) -> None:
    on_disk(ansible, inventory)
    password = ansible.write("password", "correct horse battery staple\n")
    vault = ansible.directory / VARS / "vault.yml"
    vault.write_text(encrypt(vault.read_text(), password, "encrypt"))
    inline = encrypt(PROVIDER_KEY, password, "encrypt_string", "--stdin-name", "vault_openhands_api_key")
    ansible.write(f"{VARS}/zz_inline.yml", inline)
    direct = encrypt(PROVIDER_KEY, password, "encrypt_string", "--stdin-name", "api_key")
    upstream = inventory.upstreams["ohmygpt"]
    del upstream["api_key"]
    text = yaml.safe_dump({"goproxy_upstream__ohmygpt": upstream})
    ansible.write(f"{VARS}/upstreams/ohmygpt.yml", text + "".join(f"  {line}\n" for line in direct.splitlines()))

    run = ansible.play([CHECK, SHOW], "--vault-password-file", str(password), "-vvvv", "--diff", callback="default")
    assert run.code == 0, run.output
    assert "goproxy-openhands" in run.output
    assert shows_no_secret(run)

    # Without the password the file could not be read at all; the values in it can be told from the others.
    ansible.write(f"{VARS}/vault.yml", {"vault_api_keys": {"bob": BOB}, "vault_dns_key_secret": SECRETS[3]})
    run = ansible.play([CHECK])
    what = "is encrypted, and the vault password was not given or is wrong"
    right = "use --vault-password-file or --ask-vault-pass"
    assert run.result["problems"] == [f"ohmygpt: api_key: {what}; {right}", f"openhands: api_key: {what}; {right}"]


@pytest.mark.parametrize("spoilt", [False, True], ids=["sound", "spoilt"])
def test_nothing_secret_is_shown_at_any_verbosity(ansible: Ansible, inventory: Inventory, spoilt: bool) -> None:
    vault = {"vault_openhands_api_key": f"{PROVIDER_KEY}\n", "vault_dns_key_secret": f"{SECRETS[3]}!"} if spoilt else {}
    on_disk(ansible, inventory, vault)
    run = ansible.play([CHECK], "-vvvv", "--diff", callback="default")
    assert run.code == (2 if spoilt else 0), run.output
    assert ("look for a line break at its end" in run.output) is spoilt
    assert shows_no_secret(run)


def test_an_upstream_under_a_wrong_name(ansible: Ansible, inventory: Inventory) -> None:
    on_disk(ansible, inventory)
    ansible.write(f"{VARS}/upstreams/third.yml", {"goproxy_upstream_third": inventory.upstreams["openhands"]})
    assert ansible.play([CHECK]).result["problems"] == [
        "goproxy_upstream_third: looks like an upstream, and is not one; name it goproxy_upstream__third"
    ]


def test_a_file_whose_variable_has_a_hyphen_is_one_problem(ansible: Ansible, inventory: Inventory) -> None:
    on_disk(ansible, inventory)
    third = {**inventory.upstreams["openhands"], "domain": "chat3.{{ gateway_zone }}", "port": 8006}
    ansible.write(f"{VARS}/upstreams/my-llm.yml", {"goproxy_upstream__my-llm": third})
    run = ansible.play([CHECK])
    assert run.code != 0, run.output
    assert run.result["problems"] == [
        "goproxy_upstream__my-llm: has '-' in its name; write goproxy_upstream__my_llm: it becomes my-llm"
    ]


def test_a_variable_of_the_host_wins_over_the_groups(ansible: Ansible, inventory: Inventory) -> None:
    on_disk(ansible, inventory)
    own = {**inventory.upstreams["openhands"], "port": 8104}
    ansible.write("host_vars/vps.yml", {"goproxy_upstream__openhands": own})
    assert ansible.play([CHECK, SHOW]).result["goproxy_upstreams"][1]["port"] == 8104


def test_arguments_are_refused(ansible: Ansible, inventory: Inventory) -> None:
    on_disk(ansible, inventory)
    run = ansible.play([{**CHECK, "trollllm.gateway.check_inventory": {"strict": True}}])
    assert run.code == 2
    assert "strict" in run.result["msg"]
