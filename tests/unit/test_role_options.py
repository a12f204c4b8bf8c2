"""What an inventory sets of the roles' options under their own names."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trollllm.gateway.plugins.module_utils.field import Unresolved
from ansible_collections.trollllm.gateway.plugins.module_utils.role_options import SIZES, check
from real_ansible import Ansible
from sound_inventory import Inventory
from test_check_inventory import CHECK, VARS, on_disk

OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"type": "str"} for name in SIZES},
    "nginx_requests_per_second": {"type": "int"},
    "docker_source": {"type": "str", "choices": ["distribution", "docker"]},
}
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
        ("docker_source", "dockr", 'is "dockr"; did you mean docker?'),
        ("docker_source", False, "is false, a boolean; give distribution or docker"),
        ("docker_source", "snap", 'is "snap"; give distribution or docker'),
    ],
)
def test_what_is_refused(name: str, value: Any, expected: str) -> None:
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
        {"docker_source": "docker"},
        {"nginx_requests_per_second": Unresolved("refers to nginx_workers, which is not defined", "define it")},
    ],
)
def test_what_is_allowed(given: dict[str, Any]) -> None:
    assert check(given, OPTIONS) == []


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
