"""What the edge's configuration says, for none, one, two and a hundred upstreams. (nginx -t itself is Molecule's.)"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from real_ansible import REPOSITORY, Ansible

ROLE = REPOSITORY / "roles/nginx"
VERSION_13 = "nginx version: nginx/1.26.3\nbuilt with OpenSSL 3.5.7 9 Jun 2026 (running with OpenSSL 3.5.9 29 Sep 2026)"
VERSION_12 = "nginx version: nginx/1.22.1\nbuilt with OpenSSL 3.0.22 25 Aug 2026"
DEFAULTS: dict[str, Any] = yaml.safe_load((ROLE / "defaults/main.yml").read_text())


def upstream(name: str, domain: str, port: int, **other: Any) -> dict[str, Any]:
    timeouts = {"connect": 10, "first_byte": 300, "idle": 120, "total": 3600}
    service = f"goproxy-{name}"
    return {
        "name": name,
        "domain": domain,
        "port": port,
        "service": service,
        "timeouts": timeouts,
        "max_body_mib": 32,
    } | other


OPENHANDS = upstream("openhands", "chat.trollllm.xyz", 8004)
OHMYGPT = upstream("ohmygpt", "chat2.trollllm.xyz", 8005, max_body_mib=8)
SLOW = upstream(
    "slow", "slow.trollllm.xyz", 8006, timeouts={"connect": 5, "first_byte": 60, "idle": 900, "total": 7200}
)
MANY = [upstream(f"number-{n}", f"number-{n}.trollllm.xyz", 9000 + n) for n in range(100)]


def host(cpus: int, *more: str) -> dict[str, Any]:
    """What the role's look at the host told."""
    lines = [f"cpus: {cpus}", *more, "network"]
    return {"stdout": "\n".join(lines), "stdout_lines": lines}


SCENARIOS: dict[str, dict[str, Any]] = {
    "none": {"goproxy_upstreams": []},
    "one": {"goproxy_upstreams": [OPENHANDS]},
    "two": {"goproxy_upstreams": [OHMYGPT, OPENHANDS]},
    "two again": {"goproxy_upstreams": copy.deepcopy([OHMYGPT, OPENHANDS])},
    "slow": {"goproxy_upstreams": [OHMYGPT, SLOW]},
    "patient": {
        "goproxy_upstreams": [OHMYGPT, OPENHANDS],
        "nginx_timeouts": {"openhands": {"connect": 10, "first_byte": 600, "idle": 130, "total": 9000}},
        "nginx_timeout_margin": "30",  # as -e gives it
    },
    "many": {"goproxy_upstreams": MANY},
    "debian 12": {"goproxy_upstreams": [OPENHANDS], "__nginx_reg_image": {"rc": 0, "stderr": VERSION_12}},
    "no image yet": {
        "goproxy_upstreams": [OPENHANDS],
        "__nginx_reg_image": {"rc": 1, "stderr": "no such image"},
        "__nginx_reg_version": {"skipped": True},
    },
    "new image": {
        "goproxy_upstreams": [OPENHANDS],
        "__nginx_reg_image": {"rc": 1, "stderr": "no such image"},
        "__nginx_reg_version": {"stderr": VERSION_12},
    },
    "no ipv6": {"goproxy_upstreams": [OPENHANDS], "__nginx_reg_host": host(2)},
    "ipv6 off": {"goproxy_upstreams": [OPENHANDS], "nginx_ipv6": "disabled"},
    "admin": {
        "goproxy_upstreams": [OPENHANDS],
        "nginx_admin_domain": "admin.trollllm.xyz",
        "nginx_admin_backend": "goproxy-backend:8111",
    },
    "large host": {"goproxy_upstreams": [OPENHANDS], "__nginx_reg_host": host(128, "ipv6")},
    "small host": {"goproxy_upstreams": [OPENHANDS], "__nginx_reg_host": host(1, "ipv6")},
    "many workers": {
        "goproxy_upstreams": [OPENHANDS],
        "__nginx_reg_host": host(128, "ipv6"),
        "nginx_workers": 20,
    },
    "no limits": {
        "goproxy_upstreams": [OPENHANDS],
        "nginx_requests_per_second": 0,
        "nginx_connections_per_address": 0,
    },
}

Trees = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Every scenario's tree and compose file, all rendered in one run."""
    ansible = Ansible(tmp_path_factory.mktemp("nginx"))
    ansible.write("hosts.yml", {"all": {"hosts": {"here": None}}})
    common = {
        "__nginx_reg_image": {"rc": 0, "stderr": VERSION_13},
        "__nginx_reg_host": host(2, "ipv6"),
        "__nginx_build": {"digest": "0123456789ab"},
        "__nginx_tree": f"{{{{ lookup('ansible.builtin.template', '{ROLE}/templates/tree.yml.j2') | from_yaml }}}}",
        "compose": f"{{{{ lookup('ansible.builtin.template', '{ROLE}/templates/docker-compose.yml.j2') }}}}",
    }
    tasks = [
        {
            "name": name,
            "ansible.builtin.debug": {"msg": {"tree": "{{ __nginx_tree }}", "compose": "{{ compose }}"}},
            "vars": common | values,
        }
        for name, values in SCENARIOS.items()
    ]
    play = {
        "hosts": "all",
        "gather_facts": False,
        "vars_files": [str(ROLE / "defaults/main.yml"), str(ROLE / "vars/main.yml")],
        "tasks": tasks,
    }
    ansible.write("play.yml", [play])
    run = ansible.playbook("play.yml")
    assert run.code == 0, run.output
    return {task["task"]["name"]: task["hosts"]["here"]["msg"] for task in run.tasks}


@pytest.fixture(scope="module")
def trees(rendered: dict[str, dict[str, Any]]) -> Trees:
    return {name: {file["path"]: file["content"] for file in msg["tree"]["files"]} for name, msg in rendered.items()}


def directives(text: str, name: str) -> list[str]:
    """The arguments of each directive of that name."""
    return re.findall(rf"^\s*{name}\s+([^;{{]*);", text, re.MULTILINE)


def whole(tree: dict[str, str]) -> str:
    return "\n".join(tree.values())


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_file_is_closed_and_every_include_is_there(trees: Trees, scenario: str) -> None:
    tree = trees[scenario]
    for path, text in tree.items():
        bare = re.sub(r"'[^'\n]*'", "''", re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE))
        assert bare.count("{") == bare.count("}"), path
        assert text.endswith("\n"), path
        for target in directives(bare, "include"):
            assert not target.startswith("/"), f"{path}: {target} is not relative, so a staged tree cannot be checked"
            assert "*" in target or target in tree, f"{path}: {target}"


def test_nginx_routes_each_domain_to_its_own_service(trees: Trees) -> None:
    for mine, other in ((OPENHANDS, OHMYGPT), (OHMYGPT, OPENHANDS)):
        text = trees["two"][f"conf.d/{mine['name']}.conf"]
        assert directives(text, "server_name") == [mine["domain"]]
        assert f"http://{mine['service']}:{mine['port']};" in text
        assert other["domain"] not in text
        assert other["service"] not in text
    assert "http://goproxy-openhands:8004" in trees["two"]["conf.d/openhands.conf"]
    assert "http://goproxy-ohmygpt:8005" in trees["two"]["conf.d/ohmygpt.conf"]


def test_the_name_is_looked_up_at_run_time(trees: Trees) -> None:
    """A literal name would be resolved once at start, and a missing container would keep nginx from starting."""
    assert directives(trees["two"]["conf.d/openhands.conf"], "proxy_pass") == ["$goproxy"]
    (resolver,) = directives(trees["two"]["nginx.conf"], "resolver")
    assert resolver.startswith("127.0.0.11 ")
    assert "upstream {" not in whole(trees["two"])


def test_proxy_headers_are_set(trees: Trees) -> None:
    headers = dict(
        entry.split(None, 1) for entry in directives(trees["two"]["snippets/proxy.conf"], "proxy_set_header")
    )
    assert headers["Host"] == "$host"
    assert headers["X-Real-IP"] == "$remote_addr"
    assert headers["X-Forwarded-For"] == "$remote_addr"
    assert headers["X-Forwarded-Proto"] == "$scheme"
    assert headers["Connection"] == '""'
    assert {headers[name] for name in ("Forwarded", "X-Forwarded-Host", "Upgrade")} == {'""'}
    # A proxy_set_header in an inner block would replace all of these.
    assert "proxy_set_header" not in trees["two"]["conf.d/openhands.conf"]


def test_nothing_holds_a_token_back(trees: Trees) -> None:
    proxy = trees["two"]["snippets/proxy.conf"]
    assert directives(proxy, "proxy_buffering") == ["off"]
    assert directives(proxy, "proxy_http_version") == ["1.1"]
    assert directives(proxy, "proxy_cache") == ["off"]
    assert directives(trees["two"]["nginx.conf"], "gzip") == ["off"]
    assert "X-Accel-Buffering" in directives(proxy, "proxy_ignore_headers")[0].split()


def test_a_request_is_never_sent_twice(trees: Trees) -> None:
    """It goes to another instance where no connection came about; nginx repeats no POST that it has begun to send."""
    assert directives(trees["two"]["snippets/proxy.conf"], "proxy_next_upstream") == ["error timeout"]


@pytest.mark.parametrize("entry", [OHMYGPT, SLOW], ids=lambda entry: str(entry["name"]))
def test_goproxy_gives_up_before_nginx_does(trees: Trees, entry: dict[str, Any]) -> None:
    text = trees["slow"][f"conf.d/{entry['name']}.conf"]
    (read,) = directives(text, "proxy_read_timeout")
    limits = entry["timeouts"]
    assert int(read.removesuffix("s")) > limits["connect"] + max(limits["first_byte"], limits["idle"])
    assert directives(text, "send_timeout") == [f"{limits['idle']}s"]
    assert directives(text, "client_max_body_size") == [f"{entry['max_body_mib']}m"]


def test_nginx_waits_longer_where_the_proxy_that_runs_is_not_the_inventorys(trees: Trees) -> None:
    reads = [
        directives(trees["patient"][f"conf.d/{name}.conf"], "proxy_read_timeout") for name in ("openhands", "ohmygpt")
    ]
    assert reads == [["640s"], ["340s"]]


def test_a_reload_lets_the_longest_stream_end(trees: Trees) -> None:
    for scenario, longest in (("slow", 7200), ("patient", 9000), ("two", 3600), ("none", 0)):
        (seconds,) = directives(trees[scenario]["nginx.conf"], "worker_shutdown_timeout")
        assert int(seconds.removesuffix("s")) > longest


@pytest.mark.parametrize(
    ("scenario", "workers"), [("large host", 8), ("small host", 1), ("many workers", 20), ("two", 2)]
)
def test_many_reloads_leave_room_for_new_workers(
    rendered: dict[str, dict[str, Any]], trees: Trees, scenario: str, workers: int
) -> None:
    """Old workers stay for an hour, and where no new one can begin, nginx ends the old ones all the same."""
    assert directives(trees[scenario]["nginx.conf"], "worker_processes") == [str(workers)]
    (service,) = yaml.safe_load(rendered[scenario]["compose"])["services"].values()
    assert service["pids_limit"] >= 30 * workers


def test_port_80_redirects_known_names_but_for_the_challenges(trees: Trees) -> None:
    plain = trees["two"]["servers/plain.conf"]
    assert [name.split() for name in directives(plain, "server_name")] == [["chat2.trollllm.xyz", "chat.trollllm.xyz"]]
    assert directives(plain, "return") == ["301 https://$host$request_uri"]
    challenge = plain.index("location ^~ /.well-known/acme-challenge/")
    assert challenge < plain.index("return 301")
    assert "return" not in plain[challenge : plain.index("}", challenge)]
    assert "server {" not in trees["none"]["servers/plain.conf"]


def test_unknown_names_are_refused(trees: Trees) -> None:
    unknown = trees["two"]["servers/unknown.conf"]
    assert directives(unknown, "ssl_reject_handshake") == ["on"]
    assert set(directives(unknown, "return")) == {"444", "421"}
    for path, text in trees["two"].items():
        assert ("default_server" in text) == (path == "servers/unknown.conf"), path


def test_a_host_that_is_not_the_sni_is_refused(trees: Trees) -> None:
    assert re.search(r"if \(\$connection_name != \$host\) \{\s*return 421;", trees["two"]["conf.d/openhands.conf"])
    block = re.search(r"map \$ssl_server_name \$connection_name \{(.*?)\}", trees["two"]["nginx.conf"], re.DOTALL)
    assert block
    names = [line.split() for line in block[1].replace(";", "").strip().splitlines()]
    assert names == [["default", '""'], ["chat2.trollllm.xyz"] * 2, ["chat.trollllm.xyz"] * 2]


def test_only_the_api_is_passed_on(trees: Trees) -> None:
    text = trees["two"]["conf.d/openhands.conf"]
    assert re.findall(r"location ([^{]+) \{", text) == ["/v1/", "/", "= /v1"]
    assert text.count("proxy_pass") == 1


def test_tls_follows_mozilla_intermediate(trees: Trees) -> None:
    main = trees["two"]["nginx.conf"]
    assert directives(main, "ssl_protocols") == ["TLSv1.2 TLSv1.3"]
    (ciphers,) = directives(main, "ssl_ciphers")
    assert ciphers.split(":")[0] == "ECDHE-ECDSA-AES128-GCM-SHA256"
    assert all(re.fullmatch(r"ECDHE-(ECDSA|RSA)-(AES|CHACHA).*", suite) for suite in ciphers.split(":"))
    assert directives(main, "ssl_session_tickets") == ["off"]
    assert "ssl_stapling" not in whole(trees["two"])


def test_what_the_nginx_does_not_know_is_not_rendered(trees: Trees) -> None:
    new, old, unknown = (trees[name] for name in ("one", "debian 12", "no image yet"))
    assert directives(new["nginx.conf"], "ssl_ecdh_curve") == ["X25519MLKEM768:X25519:prime256v1:secp384r1"]
    assert directives(old["nginx.conf"], "ssl_ecdh_curve") == ["X25519:prime256v1:secp384r1"]
    assert directives(new["conf.d/openhands.conf"], "http2") == ["on"]
    assert directives(old["conf.d/openhands.conf"], "http2") == []
    assert directives(old["conf.d/openhands.conf"], "listen") == ["443 ssl http2", "[::]:443 ssl http2"]
    assert unknown == new


@pytest.mark.parametrize("scenario", ["no ipv6", "ipv6 off"])
def test_ipv6_is_listened_on_where_there_is_one(trees: Trees, scenario: str) -> None:
    assert "[::]" not in whole(trees[scenario])
    listens = [entry for text in trees["one"].values() for entry in directives(text, "listen")]
    outside = [entry for entry in listens if "127.0.0.1" not in entry]
    assert [entry for entry in outside if not entry.startswith("[::]:")] == [
        entry.removeprefix("[::]:") for entry in outside if entry.startswith("[::]:")
    ]


def test_a_limit_that_is_reached_at_one_upstream_says_nothing_of_the_others(trees: Trees) -> None:
    for name in ("limit_conn_zone", "limit_req_zone"):
        (zone,) = directives(trees["two"]["nginx.conf"], name)
        assert zone.startswith("$binary_remote_addr$server_name zone="), name


def test_limits_can_be_switched_off(trees: Trees) -> None:
    limited, free = trees["one"]["conf.d/openhands.conf"], trees["no limits"]["conf.d/openhands.conf"]
    assert directives(limited, "limit_req")
    assert directives(limited, "limit_conn")
    assert not directives(free, "limit_req")
    assert not directives(free, "limit_conn")


def test_the_admin_api_is_reached_at_its_own_domain_only_and_is_off_by_default(trees: Trees) -> None:
    """Nothing of the backend but the admin API: not what the proxies ask, not its metrics."""
    assert "backend" not in whole(trees["two"])
    admin = trees["admin"]["servers/admin.conf"]
    assert "http://goproxy-backend:8111;" in admin
    assert "64m" in directives(admin, "client_max_body_size")
    assert directives(admin, "server_name") == ["admin.trollllm.xyz"]
    assert re.findall(r"location ([^{]*) \{", admin) == ["/admin/v1/", "= /admin/v1/catalogue", "/"]
    assert directives(admin, "limit_req") == ["zone=admin burst=20 nodelay"]
    assert "limit_req_zone $binary_remote_addr zone=admin:1m rate=60r/m;" in trees["admin"]["nginx.conf"]
    assert "admin.trollllm.xyz admin.trollllm.xyz;" in trees["admin"]["nginx.conf"]
    assert "admin.trollllm.xyz" in trees["admin"]["servers/plain.conf"]
    assert "backend" not in trees["admin"]["conf.d/openhands.conf"]


def test_logs_hold_no_key_no_query_and_no_body(trees: Trees) -> None:
    main = trees["two"]["nginx.conf"]
    log_format = main[main.index("log_format") : main.index("access_log")]
    used = set(re.findall(r"\$(\w+)", log_format))
    assert not used & {"request", "request_uri", "args", "query_string", "request_body", "http_authorization"}
    assert {name for name in used if name.startswith("http_")} == {"http_user_agent"}
    assert directives(main, "error_log") == ["stderr notice", "stderr crit"]


def bodies(tree: dict[str, str]) -> dict[str, dict[str, dict[str, Any]]]:
    """status -> shape -> body, of nginx's own errors."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for status, block in re.findall(
        r"map \S+ \$error_(\d+) \{(.*?)\n\}", tree["snippets/error_bodies.conf"], re.DOTALL
    ):
        entries = re.findall(r"^\s+(\w+)\s+'(.*)';$", block, re.MULTILINE)
        found[status] = {shape: json.loads(body) for shape, body in entries}
    return found


def test_errors_of_nginx_are_json_in_the_clients_shape(trees: Trees) -> None:
    found = bodies(trees["two"])
    assert {"400", "404", "413", "429", "502", "503", "504"} <= found.keys()
    for status, shapes in found.items():
        both = {"400", "414"}  # so early that the path is not known
        for shape, body in shapes.items():
            error = body["error"]
            assert error["message"].endswith("."), status
            if shape == "anthropic" or status in both:
                assert body["type"] == "error"
                assert body["request_id"] == "$request_id"
            if shape == "default":
                assert {"message", "type", "param", "code"} == error.keys()
    assert found["413"]["anthropic"]["error"]["type"] == "request_too_large"
    assert found["429"]["anthropic"]["error"]["type"] == "rate_limit_error"
    assert found["429"]["default"]["error"]["code"] == "rate_limit_exceeded"
    text = trees["two"]["snippets/error_bodies.conf"]
    assert re.search(r"/v1/messages\s+anthropic;", text)
    assert re.search(r"/v1/chat/completions\s+openai;", text)
    assert re.search(r"/v1/responses\s+openai;", text)


def test_every_error_keeps_its_status_and_the_headers(trees: Trees) -> None:
    text = trees["two"]["snippets/errors.conf"]
    pages = dict(re.findall(r"error_page [\d ]*?(\d+)(?: \d+)* =\1 (\S+);", text))
    for status, body in bodies(trees["two"]).items():
        assert body
        assert f"return {status} $error_{status};" in text
        assert pages.get(status, "").endswith(status), status
    # add_header in a location replaces what the server has: each location has all of them.
    assert text.count("include snippets/headers.conf;") == text.count("return ")


def test_the_fingerprint_stands_for_the_whole_tree(rendered: dict[str, dict[str, Any]], trees: Trees) -> None:
    prints = {name: msg["tree"]["fingerprint"] for name, msg in rendered.items()}
    assert prints["two"] == prints["two again"]
    different = [name for name in SCENARIOS if name not in {"two again", "no image yet", "new image", "ipv6 off"}]
    assert len({prints[name] for name in different}) == len(different)
    for name, tree in trees.items():
        assert f"return 200 {prints[name]};" in tree["servers/health.conf"]


def test_a_hundred_upstreams_are_a_hundred_files(trees: Trees) -> None:
    assert len([path for path in trees["many"] if path.startswith("conf.d/")]) == len(MANY)


def test_the_container_can_do_nothing_but_serve(rendered: dict[str, dict[str, Any]]) -> None:
    project = yaml.safe_load(rendered["two"]["compose"])
    assert project["name"] == "trollllm-edge"
    (service,) = project["services"].values()
    assert service["container_name"] == "trollllm-edge"
    assert service["user"] == "10443:10443"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"] == service["memswap_limit"] == DEFAULTS["nginx_memory_limit"]
    assert service["ulimits"] == {"core": 0}
    assert service["dns_opt"] == ["ndots:1"], "the name of a container that is away is asked of nobody outside"
    assert service["dns"] == ["127.0.0.1"]
    assert service["image"] == "trollllm/edge:0123456789ab"
    assert service["ports"] == ["80:80", "443:443"]
    assert service["logging"]["options"]["max-size"]
    assert "privileged" not in service
    assert "cap_add" not in service
    (network,) = project["networks"].values()
    assert network == {"name": "trollllm-network", "external": True}


def test_only_directories_are_mounted_and_nothing_can_be_written(rendered: dict[str, dict[str, Any]]) -> None:
    (service,) = yaml.safe_load(rendered["two"]["compose"])["services"].values()
    targets = {volume["target"]: volume for volume in service["volumes"]}
    assert targets.keys() == {"/etc/nginx", "/etc/nginx-tls", "/var/www/acme"}
    assert all(volume["read_only"] and not Path(volume["source"]).suffix for volume in targets.values())
    assert all("noexec,nosuid,nodev" in entry for entry in service["tmpfs"])


@pytest.mark.parametrize(
    ("size", "told"),
    [
        ("384m", "nginx_temp_size is 384m, less than max_body_mib of huge (400), larger (385). Lower max_body_mib"),
        ("400m", ""),
        ("1g", ""),
        ("50%", ""),
        ("48m", "the admin API (64)"),
    ],
)
def test_a_body_that_can_never_fit_is_refused(ansible: Ansible, size: str, told: str) -> None:
    tasks: list[dict[str, Any]] = yaml.safe_load((ROLE / "tasks/preflight.yml").read_text())
    refuse = next(task for task in tasks if task["name"] == "Refuse bodies that the edge has no room for")
    sizes = {"as-large": 384, "huge": 400, "larger": 385, "usual": 32}
    upstreams = [{"name": name, "max_body_mib": mib} for name, mib in sizes.items()]
    facts: dict[str, Any] = {"goproxy_upstreams": upstreams, "nginx_temp_size": size}
    given = {"set_fact": facts | {"nginx_admin_domain": "admin.example.org", "__nginx_admin_body_mib": 64}}
    run = ansible.play([given, refuse])
    assert run.code == (2 if told else 0), run.output
    assert told in run.result.get("msg", "")
