"""What an inventory sets of the roles' options under their own names."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.trollllm.gateway.plugins.module_utils.dns_credentials import PROVIDERS
from ansible_collections.trollllm.gateway.plugins.module_utils.field import Unresolved
from ansible_collections.trollllm.gateway.plugins.module_utils.role_options import LOWEST, SIZES, check
from real_ansible import REPOSITORY, Ansible
from sound_inventory import Inventory
from test_check_inventory import CHECK, VARS, on_disk

OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"type": "str"} for name in SIZES},
    "goproxy_pids_limit": {"type": "int"},
    "goproxy_ready_seconds": {"type": "int"},
    "nginx_admin_requests_per_minute": {"type": "int"},
    "nginx_pids_limit": {"type": "int"},
    "nginx_requests_per_second": {"type": "int"},
    "docker_source": {"type": "str", "choices": ["distribution", "docker"]},
}
NGINX = Path("/usr/sbin/nginx")
A_SIZE = "give a size as Docker takes it, like 512m or 2g"
A_SPACE = "give a size as a tmpfs takes it, like 384m or 1g"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("nginx_request_per_second", None, "is not a known variable; did you mean nginx_requests_per_second?"),
        ("goproxy_memory_limit", "two gigabytes", f'is "two gigabytes", text; {A_SIZE}'),
        ("goproxy_memory_limit", "2gg", f'is "2gg", text; {A_SIZE}'),
        ("nginx_memory_limit", True, f"is true, a boolean; {A_SIZE}"),
        ("nginx_log_max_size", None, f"is nothing; {A_SIZE}"),
        ("goproxy_log_max_size", -1, f"is -1, a number; {A_SIZE}"),
        ("nginx_temp_size", "99zz", f'is "99zz", text; {A_SPACE}'),
        ("nginx_temp_size", "384 MB", f'is "384 MB", text; {A_SPACE}'),
        ("nginx_requests_per_second", "fifty", 'is "fifty", text; give a whole number'),
        ("nginx_requests_per_second", 0.5, "is 0.5, a number; give a whole number"),
        ("goproxy_ready_seconds", -5, "is -5; give 1 or more"),
        ("goproxy_ready_seconds", "0", "is 0; give 1 or more"),  # as -e gives it
        ("nginx_admin_requests_per_minute", 0, "is 0; give 1 or more"),
        ("nginx_requests_per_second", -1, "is -1; give 0 or more"),
        ("nginx_pids_limit", 19, "is 19; give 20 or more"),
        ("goproxy_pids_limit", -2, "is -2; give -1 or more"),
        ("docker_source", "dockr", 'is "dockr"; did you mean docker?'),
        ("docker_source", False, "is false, a boolean; give distribution or docker"),
        ("docker_source", "snap", 'is "snap"; give distribution or docker'),
    ],
)
def test_a_wrong_option_is_told_with_what_is_right(name: str, value: Any, expected: str) -> None:
    assert [str(problem) for problem in check({name: value}, OPTIONS)] == [f"{name}: {expected}"]


@pytest.mark.parametrize(
    "given",
    [
        {"nginx_user": None, "docker_users": None, "dns_servers": None},
        {"nginx_request_per_second": None, "nginx_requests_per_second": 50},  # as for gateway_*
        {"goproxy_memory_limit": "2 GB", "nginx_memory_limit": "1.5gib", "goproxy_log_max_size": 1048576},
        {"nginx_temp_size": "50%"},
        {"nginx_temp_size": "1G"},
        {"nginx_requests_per_second": "50"},  # as -e gives it
        {"nginx_requests_per_second": 0, "goproxy_pids_limit": -1, "goproxy_ready_seconds": 1, "nginx_pids_limit": 20},
        {"docker_source": "docker"},
        {"nginx_requests_per_second": Unresolved("refers to nginx_workers, which is not defined", "define it")},
    ],
)
def test_what_is_allowed(given: dict[str, Any]) -> None:
    assert check(given, OPTIONS) == []


def test_each_bound_is_of_a_number_that_the_roles_have_and_their_defaults_keep_it() -> None:
    options: dict[str, Any] = {}
    for file in REPOSITORY.glob("roles/*/meta/argument_specs.yml"):
        options |= yaml.safe_load(file.read_text())["argument_specs"]["main"]["options"]
    assert {name: options[name]["type"] for name in LOWEST} == dict.fromkeys(LOWEST, "int")
    defaults = {name: option["default"] for name, option in options.items() if option.get("type") == "int"}
    computed = defaults.pop("nginx_pids_limit")
    assert "256" in computed
    assert check(defaults, options) == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nginx_admin_requests_per_minute", "limit_req_zone $server_name zone=a:1m rate=%dr/m;"),
        (
            "nginx_requests_burst",
            "limit_req_zone $server_name zone=a:1m rate=1r/s;"
            "server { listen unix:%%s/s; location / { limit_req zone=a burst=%d nodelay; } }",
        ),
    ],
)
def test_what_is_refused_for_nginx_is_what_it_would_refuse(tmp_path: Path, name: str, line: str) -> None:
    conf = tmp_path / "nginx.conf"

    def takes(number: int) -> bool:
        directives = (line % number).replace("%s", str(tmp_path))
        conf.write_text(f"events {{}} pid {tmp_path}/pid; http {{ access_log off; {directives} }}")
        return subprocess.run([NGINX, "-t", "-q", "-e", "stderr", "-c", conf], check=False).returncode == 0

    assert takes(LOWEST[name])
    assert not takes(LOWEST[name] - 1)


def test_what_the_roles_would_refuse_later_is_told_at_once(ansible: Ansible, inventory: Inventory) -> None:
    """A body by the default of nginx_temp_size, too, which no inventory has."""
    inventory.spoil(("settings", "gateway_max_body_mib"), 512)
    on_disk(ansible, inventory)
    ansible.write(f"{VARS}/more.yml", {"goproxy_ready_seconds": "{{ 0 - 5 }}", "nginx_admin_requests_per_minute": 0})
    run = ansible.play([CHECK])
    assert run.code != 0
    assert run.result["problems"] == [
        "gateway_max_body_mib: is 512, more than the edge has room for (nginx_temp_size is 384m); "
        "give 384 at most, or raise nginx_temp_size, and nginx_memory_limit with it",
        "goproxy_ready_seconds: is -5; give 1 or more",
        "nginx_admin_requests_per_minute: is 0; give 1 or more",
    ]
    assert ansible.play([CHECK], "-e", "nginx_temp_size=512m").result["problems"] == run.result["problems"][1:]


def test_the_roles_options_are_known(ansible: Ansible, inventory: Inventory) -> None:
    """But for those that wiring.yml sets: what an inventory says of them counts for nothing."""
    on_disk(ansible, inventory)
    ansible.write(
        f"{VARS}/more.yml",
        {
            "certbot_profle": "classic",
            "dns_wait_second": 60,
            "dns_zones": ["an operator's own"],
            "docker_base_image_miror": "http://deb.test",
            "goproxy_memory_limt": "2g",
            "goproxy_stop_grace_second": 600,
            "nginx_temp_size": "{{ room }}",
            "nginx_workers": 4,
            "room": "99zz",
        },
    )
    run = ansible.play([CHECK], "-e", "nginx_request_per_second=50")
    assert run.code != 0
    assert run.result["problems"] == [
        "certbot_profle: is not a known variable; did you mean certbot_profile?",
        "dns_wait_second: is not a known variable; did you mean dns_wait_seconds?",
        "docker_base_image_miror: is not a known variable; did you mean docker_base_image_mirror?",
        "goproxy_memory_limt: is not a known variable; did you mean goproxy_memory_limit?",
        "goproxy_stop_grace_second: is not a known variable; did you mean goproxy_stop_grace_seconds?",
        "nginx_request_per_second: is not a known variable; did you mean nginx_requests_per_second?",
        f'nginx_temp_size: is "99zz", text; {A_SPACE}',
    ]


def test_the_role_dns_misses_the_credentials_that_an_inventory_must_give() -> None:
    role = yaml.safe_load((REPOSITORY / "roles/dns/vars/main.yml").read_text())["__dns_credential_keys"]
    assert {provider: set(keys) for provider, keys in role.items()} == {
        provider: set(credentials.required) for provider, credentials in PROVIDERS.items()
    }
