"""The rules of the deployment, each beside a change that breaks it: a rule that does not notice its breaking is none.

What only a running container can show is tested in molecule/default/tests/test_hardening.py.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torture.hardening.rendered import EDGE, Site, directives, put_down

Service = dict[str, Any]
Breaking = Callable[[Site], object]
_MAIN = "nginx.conf"
_PROXY_HEADERS = "snippets/proxy.conf"
_PROXY, _OTHER = "goproxy-openhands", "goproxy-ohmygpt"


@dataclass(frozen=True)
class Rule:
    """One rule."""

    name: str
    problems: Callable[[Site], Iterable[str]]
    """What is against it: nothing, if all is well."""

    breakings: tuple[Breaking, ...]
    """Changes of a site, each of which must be found."""


# Containers.


def _of_containers(name: str, holds: Callable[[Service], bool], *breakings: Callable[[Service], object]) -> Rule:
    """A rule for each container; it is broken in a proxy, in the backend and in the edge."""

    def broken(service: str, breaking: Callable[[Service], object]) -> Breaking:
        return lambda site: breaking(site.services[service])

    return Rule(
        name,
        lambda site: [service for service, what in site.services.items() if not holds(what)],
        tuple(broken(service, breaking) for breaking in breakings for service in (_PROXY, "backend", EDGE)),
    )


def _set(name: str, value: object) -> Callable[[Service], object]:
    return lambda service: service.update({name: value})


def _without(name: str) -> Callable[[Service], object]:
    return lambda service: service.pop(name, None)


def _volumes(service: Service) -> list[tuple[str, str, bool]]:
    """Source, target, whether it is read-only."""
    found = []
    for volume in service.get("volumes", []):
        if isinstance(volume, dict):
            found.append((volume["source"], volume["target"], bool(volume.get("read_only"))))
        else:
            source, target, *mode = volume.split(":")
            found.append((source, target, mode == ["ro"]))
    return found


def _mounting(volume: str) -> Callable[[Service], object]:
    return lambda service: service.setdefault("volumes", []).append(volume)


def _seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def _is_own(user: str) -> bool:
    return bool(re.fullmatch(r"\d+:\d+", user)) and int(user.split(":", maxsplit=1)[0]) > 10_000


_CONTAINERS = (
    _of_containers(
        "the root file system is read-only",
        lambda service: service.get("read_only") is True,
        _set("read_only", False),
        _without("read_only"),
    ),
    _of_containers(
        "every capability is dropped",
        lambda service: service.get("cap_drop") == ["ALL"],
        _set("cap_drop", ["NET_RAW"]),
        _without("cap_drop"),
    ),
    _of_containers(
        "no capability is added", lambda service: not service.get("cap_add"), _set("cap_add", ["NET_BIND_SERVICE"])
    ),
    _of_containers(
        "no privileges can be gained",
        lambda service: "no-new-privileges:true" in service.get("security_opt", []),
        _set("security_opt", ["no-new-privileges:false"]),
        _without("security_opt"),
    ),
    _of_containers(
        "seccomp and AppArmor are not switched off",
        lambda service: not any("unconfined" in option for option in service.get("security_opt", [])),
        lambda service: service["security_opt"].append("seccomp=unconfined"),
        lambda service: service["security_opt"].append("apparmor:unconfined"),
    ),
    _of_containers("nothing is privileged", lambda service: not service.get("privileged"), _set("privileged", True)),
    _of_containers(
        "the user is a number above the host's own users",
        lambda service: _is_own(str(service.get("user", ""))),
        _set("user", "0:0"),
        _set("user", "root"),
        _set("user", "1000:1000"),
        _without("user"),
    ),
    _of_containers(
        "processes are limited",
        lambda service: 0 < int(service.get("pids_limit", 0)) <= 512,
        _set("pids_limit", -1),
        _without("pids_limit"),
    ),
    _of_containers(
        "memory is limited",
        lambda service: bool(re.fullmatch(r"[1-9]\d*[mg]", str(service.get("mem_limit", "")))),
        _without("mem_limit"),
        _set("mem_limit", "0"),
    ),
    _of_containers(
        "nothing is swapped",
        lambda service: "mem_limit" in service and service.get("memswap_limit") == service["mem_limit"],
        _set("memswap_limit", -1),
        _without("memswap_limit"),
    ),
    _of_containers(
        "no memory is dumped to a file",
        lambda service: service.get("ulimits", {}).get("core") == 0,
        _set("ulimits", {"core": -1}),
        _without("ulimits"),
    ),
    _of_containers(
        "temporary memory runs nothing",
        lambda service: all({"noexec", "nosuid", "nodev"} <= {*entry.split(",")} for entry in service["tmpfs"]),
        _set("tmpfs", ["/tmp:size=1m,nosuid,nodev"]),
        _set("tmpfs", ["/tmp"]),
    ),
    _of_containers(
        "temporary memory is bounded",
        lambda service: all("size=" in entry for entry in service["tmpfs"]),
        _set("tmpfs", ["/tmp:noexec,nosuid,nodev"]),
    ),
    _of_containers(
        "logs are bounded",
        lambda service: {"max-size", "max-file"} <= service.get("logging", {}).get("options", {}).keys(),
        _without("logging"),
        _set("logging", {"driver": "json-file", "options": {"max-file": "5"}}),
    ),
    _of_containers(
        "Docker's socket is not mounted",
        lambda service: not any("docker" in source for source, _, _ in _volumes(service)),
        _mounting("/var/run/docker.sock:/var/run/docker.sock"),
        _mounting("/run/docker.sock:/x:ro"),
    ),
    _of_containers(
        "no directory of the host's own is mounted",
        lambda service: all(
            source.startswith(("./", "/opt/trollllm/", "/var/www/acme")) for source, *_ in _volumes(service)
        ),
        _mounting("/:/host:ro"),
        _mounting("/etc:/x:ro"),
        _mounting("/proc:/x:ro"),
    ),
    _of_containers(
        "nothing but a container's own records is writable",
        lambda service: all(
            read_only or source == f"./data/{service['container_name'].removeprefix('goproxy-')}"
            for source, _, read_only in _volumes(service)
        ),
        _mounting("./data/other:/var/lib/other"),
        _mounting("./goproxy/x.json:/app/x.json"),
    ),
    _of_containers(
        "no namespace of the host is shared",
        lambda service: not {"network_mode", "pid", "ipc", "uts", "userns_mode", "cgroup"} & service.keys(),
        _set("network_mode", "host"),
        _set("pid", "host"),
        _set("ipc", "host"),
        _set("userns_mode", "host"),
    ),
    _of_containers(
        "no device is given",
        lambda service: not {"devices", "device_cgroup_rules", "runtime"} & service.keys(),
        _set("devices", ["/dev/kmsg"]),
        _set("device_cgroup_rules", ["c 1:3 mr"]),
    ),
    _of_containers(
        "the image is named by its content",
        lambda service: bool(re.search(r":[0-9a-f]{12,}$", service["image"])),
        _set("image", "trollllm/goproxy:latest"),
        _set("image", "trollllm/goproxy"),
    ),
    _of_containers("nothing is built in passing", lambda service: "build" not in service, _set("build", ".")),
    _of_containers(
        "it comes back after a restart of the host",
        lambda service: service.get("restart") in ("always", "unless-stopped"),
        _without("restart"),
        _set("restart", "no"),
    ),
    _of_containers(
        "it is asked whether it lives",
        lambda service: bool(service.get("healthcheck", {}).get("test")) and not service["healthcheck"].get("disable"),
        _without("healthcheck"),
        _set("healthcheck", {"disable": True}),
    ),
    _of_containers(
        "one network, and no other", lambda service: len(service.get("networks", ())) == 1, _set("networks", ["a", "b"])
    ),
    _of_containers(
        "no file of variables is read", lambda service: "env_file" not in service, _set("env_file", [".env"])
    ),
    _of_containers(
        "it has time to finish",
        lambda service: (
            _seconds(service.get("stop_grace_period", "0s"))
            >= 10 + int(service.get("environment", {}).get("GRACE_SECONDS", 0))
        ),
        _set("stop_grace_period", "5s"),
    ),
)


def _same_users(site: Site) -> Iterable[str]:
    users = Counter(str(service.get("user", "")).split(":")[0] for service in site.services.values())
    return [user for user, count in users.items() if count > 1]


def _published(site: Site) -> Iterable[str]:
    for name, service in site.services.items():
        ports = service.get("ports", [])
        if ports != (["80:80", "443:443"] if name == EDGE else []):
            yield f"{name}: {ports}"


def _secrets_in(service: Service, field: str, site: Site) -> bool:
    text = json.dumps(service.get(field, ""))
    return any(secret in text for secret in site.secret_texts)


def _without_secrets(name: str, field: str) -> Rule:
    def broken(site: Site) -> object:
        return site.services[_PROXY].update({field: [*site.secret_texts][:1]})

    return Rule(
        f"no secret stands in the {name} of a container",
        lambda site: [each for each, service in site.services.items() if _secrets_in(service, field, site)],
        (broken,),
    )


def _foreign_mounts(site: Site) -> Iterable[str]:
    """A proxy mounts what bears its own name."""
    for name, service in site.upstreams.items():
        for source, *_ in _volumes(service):
            if name not in source and source != "./ca":
                yield f"{name}: {source}"


def _foreign_secrets(site: Site) -> Iterable[str]:
    for name, service in site.upstreams.items():
        given = {each["source"] for each in service["secrets"]}
        if given != {f"{name}_upstream_api_key", f"{name}_proxy_token"}:
            yield f"{name}: {given}"


def _backend_secrets(site: Site) -> Iterable[str]:
    for each in site.proxies["services"]["backend"]["secrets"]:
        source = each if isinstance(each, str) else each["source"]
        if not source.endswith("_digest") and source not in ("operator_token", "backend_database_url"):
            yield source


def _give(service: str, source: str) -> Breaking:
    return lambda site: site.proxies["services"][service]["secrets"].append({"source": source, "target": source})


def _compose_names_no_secret(site: Site) -> Iterable[str]:
    return [secret[:4] for secret in site.secret_texts if secret in json.dumps([site.proxies, site.edge])]


_PROJECT = (
    Rule(
        "no two containers have the same user",
        _same_users,
        (
            lambda site: site.services[_PROXY].update(user=site.services[_OTHER]["user"]),
            lambda site: site.services[EDGE].update(user=site.services["backend"]["user"]),
        ),
    ),
    Rule(
        "only the edge publishes ports, 80 and 443",
        _published,
        (
            lambda site: site.services[_PROXY].update(ports=["127.0.0.1:8004:8004"]),
            lambda site: site.services["backend"].update(ports=["8000:8000"]),
            lambda site: site.services[EDGE].update(ports=["80:80", "443:443", "8081:8081"]),
        ),
    ),
    _without_secrets("environment", "environment"),
    _without_secrets("labels", "labels"),
    _without_secrets("command line", "command"),
    _without_secrets("health check", "healthcheck"),
    Rule(
        "no secret stands in a compose file",
        _compose_names_no_secret,
        (lambda site: site.proxies.update({"x-note": next(iter(site.secret_texts))}),),
    ),
    Rule(
        "a proxy mounts nothing of another's",
        _foreign_mounts,
        (
            lambda site: site.services[_PROXY]["volumes"].append("./data/ohmygpt:/x:ro"),
            lambda site: site.services[_PROXY]["volumes"].append("./secrets:/x:ro"),
            lambda site: site.services[_PROXY]["volumes"].append("./keys:/app/keys:ro"),
        ),
    ),
    Rule(
        "a proxy is given its own two secrets, and no more",
        _foreign_secrets,
        (
            _give(_PROXY, "ohmygpt_upstream_api_key"),
            _give(_PROXY, "operator_token"),
            _give(_OTHER, "openhands_proxy_token"),
        ),
    ),
    Rule(
        "the backend is given digests, and no provider's key",
        _backend_secrets,
        (_give("backend", "openhands_upstream_api_key"), _give("backend", "openhands_proxy_token")),
    ),
    Rule(
        "a mount that is not there is not made up",
        lambda site: [
            volume["source"]
            for volume in site.edge["services"][EDGE]["volumes"]
            if volume.get("bind", {}).get("create_host_path") is not False
        ],
        (lambda site: site.services[EDGE]["volumes"][0].pop("bind"),),
    ),
)


# Files.


def _owners(site: Site) -> dict[str, str]:
    found = {name: str(service["user"]).split(":")[0] for name, service in site.upstreams.items()}
    return found | {"backend": str(site.services["backend"]["user"]).split(":")[0]}


_FILES = (
    Rule(
        "a secret is read by its owner alone",
        lambda site: [file["path"] for file in site.secrets if file["mode"] != "0400"],
        (lambda site: site.secrets[0].update(mode="0440"), lambda site: site.secrets[-1].update(mode="0444")),
    ),
    Rule(
        "a secret belongs to its container's user",
        lambda site: [
            file["path"] for file in site.secrets if file["owner"] != _owners(site)[file["path"].split("/")[0]]
        ],
        (lambda site: site.secrets[0].update(owner="18000"), lambda site: site.secrets[0].update(owner="root")),
    ),
    Rule(
        "of tokens the backend has digests alone",
        lambda site: [
            file["path"]
            for file in site.secrets
            if file["path"].startswith("backend/")
            and "database" not in file["path"]
            and not re.fullmatch(r"[0-9a-f]{64}", file["content"])
        ],
        (lambda site: next(file for file in site.secrets if "operator" in file["path"]).update(content="plain"),),
    ),
    Rule(
        "no secret is in a configuration",
        lambda site: [
            file["path"] for file in site.configs if any(text in file["content"] for text in site.secret_texts)
        ],
        (lambda site: site.configs[0].update(content=next(iter(site.secret_texts))),),
    ),
    Rule(
        "nobody can write a configuration",
        lambda site: [file["path"] for file in site.configs if int(file["mode"], 8) & 0o333],
        (lambda site: site.configs[0].update(mode="0644"), lambda site: site.configs[0].update(mode="0777")),
    ),
    Rule(
        "records are their container's own",
        lambda site: [
            each["path"]
            for each in site.folders
            if each["mode"] != "0700" or each["owner"] != _owners(site)[each["path"].rpartition("/")[2]]
        ],
        (lambda site: site.folders[0].update(mode="0755"), lambda site: site.folders[0].update(owner="18000")),
    ),
    Rule(
        "Ansible does not show what it writes into secrets",
        lambda site: (
            [name for name, task in site.tasks.items() if task.get("no_log") is not True]
            or ["none"] * (len(site.tasks) != 2)
        ),
        (lambda site: next(iter(site.tasks.values())).pop("no_log"), lambda site: site.tasks.popitem()),
    ),
    Rule(
        "digests of keys are for the backend's group alone",
        lambda site: [
            name
            for name, task in site.tasks.items()
            if "API keys" in name and task["trollllm.gateway.file_tree"]["files"][0]["mode"] != "0440"
        ],
        (
            lambda site: next(task for name, task in site.tasks.items() if "API keys" in name)[
                "trollllm.gateway.file_tree"
            ]["files"][0].update(mode="0444"),
        ),
    ),
    Rule(
        "folders of secrets are closed",
        lambda site: [
            name
            for name, task in site.tasks.items()
            if "secrets" in name and task["trollllm.gateway.file_tree"].get("directory_mode") not in ("0700", "0711")
        ],
        (
            lambda site: next(task for name, task in site.tasks.items() if "secrets" in name)[
                "trollllm.gateway.file_tree"
            ].pop("directory_mode"),
        ),
    ),
)


# The edge.


def _changed(path: str, pattern: str, instead: str) -> Breaking:
    """A change of a file of the tree; it must change something."""

    def change(site: Site) -> None:
        paths = [*site.servers][:1] if path == "conf.d" else [path]
        for each in paths:
            text, count = re.subn(pattern, instead, site.nginx[each], flags=re.MULTILINE)
            if not count:
                raise ValueError(f"{pattern} is not in {each}: the breaking breaks nothing")
            site.nginx[each] = text

    return change


def _says(name: str, path: str, directive: str, expected: str, *others: str) -> Rule:
    """A directive that stands in a file once, with this value."""
    lost = _changed(path, rf"^\s*{directive} [^;]*;", "")
    return Rule(
        name,
        lambda site: (
            [f"{directive}: {found}"] if (found := directives(site.nginx[path], directive)) != [expected] else []
        ),
        (lost, *(_changed(path, rf"^(\s*{directive}) [^;]*;", rf"\1 {other};") for other in others)),
    )


def _clears(header: str, expected: str = '""') -> Rule:
    """A header that goes to the proxy as this, whatever the client sent."""

    def problems(site: Site) -> Iterable[str]:
        set_ = dict(each.split(None, 1) for each in directives(site.nginx[_PROXY_HEADERS], "proxy_set_header"))
        if set_.get(header) != expected:
            yield f"{header}: {set_.get(header)}"
        # One in an inner block replaces all of these.
        yield from (path for path, text in site.nginx.items() if "proxy_set_header" in text and path != _PROXY_HEADERS)

    inner = _changed("conf.d", r"(proxy_pass \$goproxy;)", rf"\1\n        proxy_set_header {header} x;")
    lost = _changed(_PROXY_HEADERS, rf"^proxy_set_header {header} [^;]*;", "")
    client = _changed(
        _PROXY_HEADERS, rf"^(proxy_set_header {header}) [^;]*;", rf"\1 $http_{header.lower().replace('-', '_')};"
    )
    return Rule(f"{header} is not the client's word", problems, (lost, inner, client))


def _in_each_server(name: str, directive: str, holds: Callable[[str], bool], other: str = "") -> Rule:
    """A directive in the server block of each upstream."""
    return Rule(
        name,
        lambda site: [
            path
            for path, text in site.servers.items()
            if not (found := directives(text, directive)) or not all(map(holds, found))
        ],
        (
            _changed("conf.d", rf"^\s*{directive} [^;]*;", ""),
            *((_changed("conf.d", rf"^(\s*{directive}) [^;]*;", rf"\1 {other};"),) if other else ()),
        ),
    )


def _nowhere(name: str, *forbidden: str, examples: Iterable[str]) -> Rule:
    """A directive that stands nowhere."""
    pattern = re.compile(rf"^\s*(?:{'|'.join(forbidden)})(?!\w)", re.MULTILINE)

    def broken(line: str) -> Breaking:
        return lambda site: site.nginx.update({_MAIN: site.nginx[_MAIN] + f"\n    {line}\n"})

    return Rule(name, lambda site: pattern.findall(site.whole_nginx), tuple(map(broken, examples)))


def _at_most(name: str, directive: str, most: float, other: str) -> Rule:
    def number(text: str) -> float:
        found = re.match(r"\d+", text)
        return float(found[0]) if found else float("inf")

    def problems(site: Site) -> Iterable[str]:
        found = directives(site.nginx[_MAIN], directive)
        return [] if found and all(0 < number(each) <= most for each in found) else [f"{directive}: {found}"]

    lost = _changed(_MAIN, rf"^\s*{directive} [^;]*;", "")
    return Rule(name, problems, (lost, _changed(_MAIN, rf"^(\s*{directive}) [^;]*;", rf"\1 {other};")))


def _tls_servers(site: Site) -> dict[str, str]:
    return {path: text for path, text in site.nginx.items() if re.search(r"listen [^;]*443", text)}


def _hides_what_it_logs(site: Site) -> Iterable[str]:
    main = site.nginx[_MAIN]
    used = {*re.findall(r"\$(\w+)", main[main.index("log_format") : main.index("access_log")])}
    yield from used & {
        "request",
        "request_uri",
        "args",
        "query_string",
        "is_args",
        "request_body",
        "http_authorization",
    }
    yield from (name for name in used if re.match(r"(http|cookie|arg)_", name) and name != "http_user_agent")


def _weak_ciphers(site: Site) -> Iterable[str]:
    (suites,) = directives(site.nginx[_MAIN], "ssl_ciphers")
    return [
        suite for suite in suites.split(":") if not re.fullmatch(r"ECDHE-(ECDSA|RSA)-.*(GCM-SHA\d+|POLY1305)", suite)
    ]


def _passed_elsewhere(site: Site) -> Iterable[str]:
    for path, text in site.servers.items():
        name = path.removeprefix("conf.d/").removesuffix(".conf")
        port = site.upstreams[name]["expose"][0]
        if directives(text, r"set \$goproxy") != [f"http://goproxy-{name}:{port}"]:
            yield path
        if directives(text, "proxy_pass") != ["$goproxy"]:
            yield path


def _findings_of_gixy(site: Site) -> Iterable[str]:
    with tempfile.TemporaryDirectory() as scratch:
        main = put_down(site.nginx, Path(scratch))
        # That an OpenSSL might not know a post-quantum group: the role asks the one that will run for its version.
        gixy = Path(sys.executable).parent / "gixy"
        command = [str(gixy), "--skips", "ssl_ecdh_curve", "-f", "json", str(main)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return [f"{each['plugin']}: {each['summary']}" for each in json.loads(done.stdout)]
    except ValueError:
        return [f"gixy cannot read it: {(done.stdout + done.stderr)[-300:]}"]


_EDGE = (
    _says("no version is told", _MAIN, "server_tokens", "off", "on"),
    _says("TLS 1.2 and 1.3 only", _MAIN, "ssl_protocols", "TLSv1.2 TLSv1.3", "TLSv1 TLSv1.1 TLSv1.2", "SSLv3"),
    Rule(
        "suites with forward secrecy and authenticated encryption only",
        _weak_ciphers,
        (
            _changed(_MAIN, r"(ssl_ciphers [^;]*);", r"\1:AES128-SHA;"),
            _changed(_MAIN, r"(ssl_ciphers [^;]*);", r"\1:ECDHE-RSA-AES128-SHA;"),
            _changed(_MAIN, r"ssl_ciphers [^;]*;", "ssl_ciphers ALL;"),
        ),
    ),
    _says("no session tickets", _MAIN, "ssl_session_tickets", "off", "on"),
    Rule(
        "post-quantum key exchange first",
        lambda site: [] if directives(site.nginx[_MAIN], "ssl_ecdh_curve")[0].startswith("X25519MLKEM768:") else ["no"],
        (_changed(_MAIN, "X25519MLKEM768:", ""),),
    ),
    Rule(
        "HSTS for two years, on every answer over TLS",
        lambda site: [
            *(
                []
                if re.search(
                    r'Strict-Transport-Security "max-age=(6307200\d|6[4-9]\d{6}|\d{9,})"',
                    site.nginx["snippets/headers.conf"],
                )
                else ["none"]
            ),
            *(path for path, text in _tls_servers(site).items() if "include snippets/headers.conf;" not in text),
        ],
        (
            _changed("snippets/headers.conf", r"max-age=\d+", "max-age=60"),
            _changed("snippets/headers.conf", "^add_header Strict.*$", ""),
            _changed("conf.d", "include snippets/headers.conf;", ""),
        ),
    ),
    _says("a handshake for an unknown name is refused", "servers/unknown.conf", "ssl_reject_handshake", "on", "off"),
    Rule(
        "an unknown Host gets nothing",
        lambda site: (
            [] if {*directives(site.nginx["servers/unknown.conf"], "return")} == {"444", "421"} else ["answered"]
        ),
        (
            _changed("servers/unknown.conf", "return 421;", "return 200;"),
            _changed("servers/unknown.conf", "return 444;", "return 301 https://x;"),
        ),
    ),
    Rule(
        "only the server of unknown names is the default",
        lambda site: [
            path for path, text in site.nginx.items() if ("default_server" in text) != (path == "servers/unknown.conf")
        ],
        (
            _changed("conf.d", "443 ssl;", "443 ssl default_server;"),
            _changed("servers/unknown.conf", " default_server", ""),
        ),
    ),
    Rule(
        "a Host that is not the SNI is refused",
        lambda site: [
            path
            for path, text in site.servers.items()
            if not re.search(r"if \(\$connection_name != \$host\) \{\s*return 421;", text)
        ],
        (
            _changed("conf.d", r"return 421;", "return 200;"),
            _changed("conf.d", r"\$connection_name != \$host", "$host != $host"),
        ),
    ),
    Rule(
        "port 80 leads to HTTPS and serves challenges, no more",
        lambda site: (
            []
            if directives(site.nginx["servers/plain.conf"], "return") == ["301 https://$host$request_uri"]
            and "proxy_pass" not in site.nginx["servers/plain.conf"]
            and "location ^~ /.well-known/acme-challenge/" in site.nginx["servers/plain.conf"]
            else ["no"]
        ),
        (
            _changed("servers/plain.conf", "return 301 [^;]*;", "proxy_pass http://goproxy-openhands:8004;"),
            _changed("servers/plain.conf", r"\$host\$request_uri", "$arg_next"),
        ),
    ),
    _clears("X-Forwarded-For", "$remote_addr"),
    _clears("X-Real-IP", "$remote_addr"),
    _clears("X-Forwarded-Proto", "$scheme"),
    _clears("Host", "$host"),
    _clears("Forwarded"),
    _clears("X-Forwarded-Host"),
    _clears("X-Forwarded-Port"),
    _clears("Connection"),
    _clears("Upgrade"),
    _clears("TE"),
    _clears("Proxy"),
    _says("one connection per request, in HTTP/1.1", _PROXY_HEADERS, "proxy_http_version", "1.1", "1.0"),
    _says(
        "a request that was begun is never sent twice",
        _PROXY_HEADERS,
        "proxy_next_upstream",
        "error timeout",
        "error timeout non_idempotent",
    ),
    _says("no answer is kept for another client", _PROXY_HEADERS, "proxy_cache", "off", "answers"),
    _says("a slow upload costs no proxy anything", _PROXY_HEADERS, "proxy_request_buffering", "on", "off"),
    _says("nothing holds a token back", _PROXY_HEADERS, "proxy_buffering", "off", "on"),
    _says(
        "a provider's answer steers nothing in the edge",
        _PROXY_HEADERS,
        "proxy_ignore_headers",
        "X-Accel-Redirect X-Accel-Expires X-Accel-Limit-Rate X-Accel-Buffering X-Accel-Charset",
        "X-Accel-Expires",
    ),
    _at_most("a head has seconds to arrive", "client_header_timeout", 15, "600s"),
    _at_most("a body has seconds between two pieces", "client_body_timeout", 60, "900s"),
    _at_most("heads are short", "large_client_header_buffers", 8, "64 64k"),
    _at_most("an idle connection ends", "keepalive_timeout", 120, "3600s"),
    _at_most("a connection serves no end of requests", "keepalive_requests", 1000, "1000000"),
    _at_most("an HTTP/2 connection has few streams at once", "http2_max_concurrent_streams", 128, "10000"),
    _at_most("old workers end some day", "worker_shutdown_timeout", 7300, "999999s"),
    _says("what an attacker repeats is answered 429", _MAIN, "limit_req_status", "429", "503"),
    _says("and so is what he holds open", _MAIN, "limit_conn_status", "429", "503"),
    _in_each_server(
        "bodies are bounded", "client_max_body_size", lambda size: re.fullmatch(r"[1-9]\d{0,2}m", size) is not None, "0"
    ),
    _in_each_server(
        "connections of an address are limited", "limit_conn", lambda text: text.startswith("connections ")
    ),
    _in_each_server("requests of an address are limited", "limit_req", lambda text: text.startswith("zone=requests ")),
    Rule(
        "a query, a key or a body is not logged",
        _hides_what_it_logs,
        (
            _changed(_MAIN, r'"path":"\$uri"', '"path":"$request_uri"'),
            _changed(_MAIN, r"\$http_user_agent", "$http_authorization"),
            _changed(_MAIN, r"\$http_user_agent", "$http_x_api_key"),
            _changed(_MAIN, r"\$http_user_agent", "$request_body"),
        ),
    ),
    Rule(
        "an error's line, which quotes the request, is written only when it is critical",
        lambda site: (
            []
            if directives(site.nginx[_MAIN], "error_log") == ["stderr notice", "stderr crit"]
            and "error_log" not in "".join(site.servers.values())
            else ["more"]
        ),
        (_changed(_MAIN, "stderr crit", "stderr info"), _changed(_MAIN, r"^\s*error_log stderr crit;", "")),
    ),
    Rule(
        "only the API is passed on",
        lambda site: [
            path
            for path, text in site.servers.items()
            if re.findall(r"location ([^{]+) \{", text) != ["/v1/", "/", "= /v1"]
        ],
        (
            _changed("conf.d", "location /v1/", "location /"),
            _changed("conf.d", "location = /v1 ", "location = /metrics "),
        ),
    ),
    Rule(
        "an upstream's domain leads to its own proxy",
        _passed_elsewhere,
        (
            _changed("conf.d", r"http://goproxy-\w+:\d+", "http://backend:8000"),
            _changed("conf.d", r"proxy_pass \$goproxy", "proxy_pass http://$http_x_target"),
        ),
    ),
    Rule(
        "the backend is reached from nowhere, unless it is asked for",
        lambda site: ["backend"] if "backend" in site.whole_nginx else [],
        (_changed("conf.d", r"http://goproxy-\w+:\d+", "http://backend:8000"),),
    ),
    Rule(
        "the edge's own state is told inside alone",
        lambda site: [
            each
            for each in directives(site.nginx["servers/health.conf"], "listen")
            if not each.startswith("127.0.0.1:")
        ],
        (_changed("servers/health.conf", r"listen 127\.0\.0\.1:", "listen "),),
    ),
    _nowhere(
        "none of what nginx's last errors were in",
        *(
            "rewrite",
            "alias",
            "try_files",
            "ssi",
            "slice",
            "autoindex",
            "dav_methods",
            "perl",
            "js_import",
            "auth_basic",
        ),
        examples=("rewrite ^/(.*)$ /$1;", "alias /srv/;", "try_files $uri /x;", "autoindex on;", "slice 1m;"),
    ),
    _nowhere(
        "no location by regular expression",
        r"location ~",
        examples=("location ~ /x$ { }", "location ~* /x { }"),
    ),
    _nowhere(
        "no header that a client wrote tells its address",
        *("set_real_ip_from", "real_ip_header", "proxy_protocol"),
        examples=("set_real_ip_from 0.0.0.0/0;", "real_ip_header X-Forwarded-For;"),
    ),
    _nowhere(
        "names with underscores are not headers",
        *("underscores_in_headers on", "ignore_invalid_headers off"),
        examples=("underscores_in_headers on;", "ignore_invalid_headers off;"),
    ),
    _nowhere(
        "no pool of connections that clients share", "keepalive", "upstream", examples=("keepalive 16;", "upstream x {")
    ),
    _nowhere("no stapling, which nobody answers any more", "ssl_stapling", examples=("ssl_stapling on;",)),
    _nowhere("no early data, which can be sent twice", "ssl_early_data on", examples=("ssl_early_data on;",)),
    _says("no compression, whose length tells", _MAIN, "gzip", "off", "on"),
    Rule(
        "gixy finds nothing",
        _findings_of_gixy,
        (
            _changed("servers/plain.conf", r"return 301 [^;]*;", "return 301 https://$host$uri;"),
            _changed(
                "conf.d", "server_name [^;]*;", "server_name _;\n    location /files {\n        alias /srv/;\n    }"
            ),
        ),
    ),
)


# Images.


def _last_stage(text: str) -> str:
    return text[text.rindex("\nFROM ") :]


def _in_image(name: str, image: str, holds: Callable[[str], bool], pattern: str, instead: str) -> Rule:
    def broken(site: Site) -> None:
        text, count = re.subn(pattern, instead, site.dockerfiles[image], flags=re.MULTILINE)
        if not count:
            raise ValueError(f"{pattern} is not in the Dockerfile of {image}")
        site.dockerfiles[image] = text

    return Rule(name, lambda site: [] if holds(site.dockerfiles[image]) else [image], (broken,))


def _in_images(name: str, holds: Callable[[str], bool], added: str) -> Rule:
    """A rule for both; a line that is added breaks it."""

    def broken(image: str) -> Breaking:
        return lambda site: site.dockerfiles.update({image: f"{site.dockerfiles[image]}\n{added}\n"})

    return Rule(
        name,
        lambda site: [image for image, text in site.dockerfiles.items() if not holds(text)],
        (broken("goproxy"), broken("edge")),
    )


def _unhashed(text: str) -> list[str]:
    """Requirements without a hash, or without a version."""
    entries = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)).splitlines()
    return [entry for entry in entries if entry.strip() and ("--hash=sha256:" not in entry or "==" not in entry)]


_IMAGES = (
    _in_image(
        "the image of the proxies does not run as root",
        "goproxy",
        lambda text: re.search(r"^USER 18000:18000$", _last_stage(text), re.MULTILINE) is not None,
        "^USER .*$",
        "USER root",
    ),
    _in_image(
        "the image of the edge does not run as root",
        "edge",
        lambda text: re.search(r"^USER \$\{NGINX_UID\}:\$\{NGINX_GID\}$", text, re.MULTILINE) is not None,
        "^USER .*$",
        "",
    ),
    _in_image(
        "packages are installed by hash", "goproxy", lambda text: "--require-hashes" in text, "--require-hashes ", ""
    ),
    _in_image(
        "nothing is built from source",
        "goproxy",
        lambda text: "--only-binary :all:" in text,
        "--only-binary :all: ",
        "",
    ),
    _in_image("nothing comes that is not listed", "goproxy", lambda text: "--no-deps" in text, "--no-deps ", ""),
    _in_image(
        "the image has no pip", "goproxy", lambda text: "pip uninstall --yes pip" in text, ".*pip uninstall.*", ""
    ),
    _in_image(
        "a .pth file that runs code fails the build",
        "goproxy",
        lambda text: """test -z "$(find "${site}" -name '*.pth')\"""" in text,
        r".*-name '\*\.pth'.*",
        "",
    ),
    _in_image(
        "the program reads no path and no variable of its user",
        "goproxy",
        lambda text: "#!/opt/goproxy/bin/python -I" in text,
        "/bin/python -I",
        "/bin/python",
    ),
    _in_image(
        "no build tools in the last stage",
        "goproxy",
        lambda text: not re.search(r"apt-get|pip|gcc", _last_stage(text)),
        r"^USER 18000:18000$",
        "RUN apt-get install --yes gcc\nUSER 18000:18000",
    ),
    _in_image(
        "the edge has nothing of a web site",
        "edge",
        lambda text: "/var/www/html" in text and "/etc/nginx/*" in text,
        "/var/www/html",
        "",
    ),
    _in_images(
        "nothing is fetched from the net and run",
        lambda text: not re.search(r"curl|wget|^ADD ", text, re.MULTILINE),
        "RUN curl x | sh",
    ),
    _in_images(
        "no secret goes into a build",
        lambda text: not re.search(r"^(ARG|ENV) \w*(TOKEN|PASSWORD|SECRET|KEY)", text, re.MULTILINE),
        "ARG API_TOKEN",
    ),
    _in_images(
        "nothing may change its user",
        lambda text: "sudo" not in text and "setcap" not in text,
        "RUN setcap cap_net_raw+ep /x",
    ),
    _in_images(
        "no package is recommended into it",
        lambda text: text.count("apt-get install") == text.count("--no-install-recommends"),
        "RUN apt-get install --yes vim",
    ),
    Rule(
        "every locked package has a hash",
        lambda site: [f"{path}: {entry[:60]}" for path, text in site.locked.items() for entry in _unhashed(text)],
        (
            lambda site: site.locked.update({path: text + "\nleft-pad==1.0\n" for path, text in site.locked.items()}),
            lambda site: site.locked.update({"proxy_app/requirements.txt": "aiohttp --hash=sha256:0"}),
        ),
    ),
)


# Scripts and units.


def _in_script(name: str, script: str, text: str, instead: str = "") -> Rule:
    return Rule(
        name,
        lambda site: [] if text in site.scripts[script] else [script],
        (lambda site: site.scripts.update({script: site.scripts[script].replace(text, instead)}),),
    )


_SCRIPTS = (
    _in_script("a renewal has a /tmp of its own", "certbot-renew.service", "PrivateTmp=true", "PrivateTmp=false"),
    _in_script("a renewal that was missed is made up for", "certbot-renew.timer", "Persistent=true"),
    _in_script("renewals do not all come at once", "certbot-renew.timer", "RandomizedDelaySec="),
    _in_script(
        "the certificate's key is for the edge alone", "deploy-edge", "put 0440 privkey.pem", "put 0444 privkey.pem"
    ),
    _in_script("one deployment of a certificate at a time", "deploy-edge", "flock -w"),
    _in_script(
        "a key that is not the certificate's is not deployed", "deploy-edge", "does not belong to fullchain.pem"
    ),
    _in_script("a renewal stops at its first mistake", "certbot-renew", "set -eu"),
    _in_script("a deployment stops at its first mistake", "deploy-edge", "set -eu"),
)

RULES = (*_CONTAINERS, *_PROJECT, *_FILES, *_EDGE, *_IMAGES, *_SCRIPTS)
