#!/usr/bin/python
# Copyright: trollllm contributors
# MIT License (see LICENSE)
"""Replaces the containers of a compose project that changed: the new one is ready before the old one leaves."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout
short_description: Replace changed containers of a compose project without a pause
version_added: "0.1.0"
author:
  - trollllm contributors (@trollllm)
description:
  - Compose stops a container before it starts the one that replaces it. This module starts the new one beside the old
    one, with everything that Compose would give it, waits until its health check says that it is ready, and only then
    tells the old one to leave.
  - An old one whose image has a label C(xyz.trollllm.leaves-at) with a signal is sent that one, and ends what it has
    begun however long that takes. The module waits for a moment, after which it is removed when it ends; RV(leaving)
    lists its service, which is to be kept from V(docker compose up) meanwhile, as that would stop it. Two of a service
    may take their time, and older ones are hurried.
  - An old one without the label is stopped within its own grace, and waited for.
  - The service's name leads to both while both run. The new one has to refuse connections until it is ready, the old
    one once it leaves, and whoever connects has to try the next address then.
  - A new one that does not become ready is removed. The old one goes on, and the module fails at the end with what
    state the new one was in, what its health check said, and its last 50 lines.
  - Four services are replaced at a time; each has twice its memory meanwhile. When none of the first ones becomes
    ready, the others are not tried.
  - What an interrupted run left half-way is taken up again.
  - A service of which nothing runs is left to Compose. So is everything else about the project; V(docker compose up)
    finds nothing to do in what was rolled out.
options:
  project_src:
    description: Directory of the compose project.
    type: path
    required: true
  file:
    description: Name of the compose file in it.
    type: str
    required: true
  project_name:
    description: Name of the project.
    type: str
    required: true
  network:
    description: The network of the services, by its name.
    type: str
    required: true
  services:
    description: The services that can run twice at a time.
    type: list
    elements: str
    required: true
  needs:
    description:
      - A service without which no new container becomes ready. It is brought up first, should it not be healthy.
    type: str
    default: ""
  ready_seconds:
    description: How long a new container may take to become ready.
    type: int
    default: 60
attributes:
  check_mode:
    description: Can run in check mode without changing anything.
    support: full
  diff_mode:
    description: Has nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Replace the proxies that changed
  trollllm.gateway.rollout:
    project_src: /opt/trollllm
    file: docker-compose.prod.yml
    project_name: trollllm
    network: trollllm-network
    services: [goproxy-openhands, goproxy-ohmygpt]
    needs: backend
"""

RETURN = r"""
rolled_out:
  description: Services that run on a new container.
  type: list
  elements: str
  returned: always
  sample: [goproxy-openhands]
leaving:
  description: Services of which an old container still ends what it has begun.
  type: list
  elements: str
  returned: always
  sample: [goproxy-openhands]
failed_services:
  description: Services whose new container did not become ready, or was not tried.
  type: list
  elements: str
  returned: when it fails
  sample: [goproxy-ohmygpt]
"""

import fcntl
import http.client
import json
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from ansible.module_utils.basic import AnsibleModule

_LABEL = "com.docker.compose."
_LEAVES_AT = "xyz.trollllm.leaves-at"
_SOCKET = "/var/run/docker.sock"
_AT_ONCE = 4  # services; each has twice its memory meanwhile
_LINES = 50
_CHECKS = 3
_LOOK_EVERY = 0.5
_BELIEVED = 2  # seconds in which the edge may go by what it was told of a name: its resolver keeps it for one
_PATIENCE = 900  # longer than a rollout of many services takes
_SEEN_OFF = (
    10  # seconds for old ones to leave before the run goes on without them: most have, or have a stream of minutes
)
_MOST_LEAVING = 2  # old ones of a service that may take their time at once: each has its memory


class Refused(Exception):
    """It cannot be done; the text says why."""


@dataclass(frozen=True)
class Instance:
    """A container of a service."""

    id: str
    name: str
    service: str
    digest: str
    """Of the configuration that Compose made it from."""
    runs: bool
    leaves_at: str = ""
    """The signal at which it leaves in its own time, or nothing."""


@dataclass(frozen=True)
class Plan:
    """What a service needs."""

    service: str
    fresh: Instance | None
    """What an earlier run has begun, or nothing."""
    stale: Sequence[Instance]
    """What leaves once the new one is ready."""


_LEAVING = "leaving-"
_GONE = re.compile("no such container|already in progress", re.IGNORECASE)


def is_leaving(container: Instance) -> bool:
    """Whether it was told to leave, or soon is: then it refuses connections, though it runs and looks healthy."""
    return container.name.startswith(f"{container.service}.{_LEAVING}")


def takes_its_time(container: Instance) -> bool:
    """Whether it leaves, and is to be left alone."""
    return is_leaving(container) and container.runs and container.leaves_at != ""


def plans(services: Iterable[str], wanted: Mapping[str, str], found: Iterable[Instance]) -> list[Plan]:
    """The services that run, but not as wanted."""
    needed = []
    of_service: dict[str, list[Instance]] = {}
    for each in found:
        of_service.setdefault(each.service, []).append(each)
    for service in services:
        there = of_service.get(service, [])
        if service not in wanted or not any(each.runs for each in there):
            continue
        right = sorted(
            (each for each in there if each.digest == wanted[service] and not is_leaving(each)),
            key=lambda each: (not each.runs, each.name != service, each.name),
        )
        fresh = right[0] if right else None
        stale = [each for each in there if each is not fresh]
        is_up = fresh is not None and fresh.runs and fresh.name == service
        if not is_up or not all(map(takes_its_time, stale)):
            needed.append(Plan(service, fresh, stale))
    return needed


class _Engine:
    """The Docker engine: by its command line, and by its socket for what that has no word for."""

    def __init__(self, module: AnsibleModule) -> None:
        given = module.params
        self._module = module
        self._directory = given["project_src"]
        self._file = os.path.join(given["project_src"], given["file"])
        self._project = given["project_name"]
        self._network = given["network"]

    def docker(self, *arguments: str) -> str:
        code, out, err = self._module.run_command(["docker", *arguments])
        if code != 0:
            raise Refused(f"docker {' '.join(arguments[:3])}: {err.strip() or out.strip()}")
        return str(out)

    def compose(self, *arguments: str) -> str:
        return self.docker("compose", "--project-directory", self._directory, "--file", self._file, *arguments)

    def wanted(self) -> dict[str, str]:
        """By service, the digest that Compose gives its container."""
        lines = self.compose("config", "--hash", "*").splitlines()
        return dict(line.split() for line in lines if line)

    def instances(self) -> list[Instance]:
        """All containers of the project, one-off ones left out."""
        labels = (f"{_LABEL}project={self._project}", f"{_LABEL}oneoff=False")
        columns = ("{{.ID}}", "{{.Names}}", "{{.State}}", *(f'{{{{.Label "{name}"}}}}' for name in _LABELS))
        filters = [word for label in labels for word in ("--filter", f"label={label}")]
        out = self.docker("ps", "--all", "--no-trunc", *filters, "--format", "\t".join(columns))
        rows = [line.split("\t") for line in out.splitlines() if line]
        return [
            Instance(id_, name, service, digest, state in ("running", "restarting"), leaves_at)
            for id_, name, state, service, digest, leaves_at in rows
        ]

    def look(self, containers: Iterable[str]) -> dict[str, dict[str, Any]]:
        """What is known of containers, by id."""
        asked = list(containers)
        if not asked:
            return {}
        return {each["Id"]: each for each in json.loads(self.docker("inspect", "--type", "container", *asked))}

    def create(self, digests: Mapping[str, str]) -> dict[str, str]:
        """A container for each service, as Compose makes it, but beside the one that has its name; ids by service.

        Compose makes a model of it under another project's name, and the engine makes it again with the right labels.
        """
        models = {service: f"{service}.model" for service in digests}
        override = {
            "services": {service: {"container_name": name} for service, name in models.items()},
            "networks": {self._network: {"external": True}},
        }
        self._module.run_command(["docker", "rm", "--force", *models.values()])  # what an interrupted run left
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(override, file)
            file.flush()
            more = ("--file", file.name, "--project-name", f"{self._project}-next")
            self.compose(*more, "create", "--pull", "never", *digests)
        try:
            return {
                model["Config"]["Labels"][f"{_LABEL}service"]: self._create_from(model, digests)
                for model in self.look(models.values()).values()
            }
        finally:
            self.docker("rm", "--force", *models.values())

    def _create_from(self, model: Mapping[str, Any], digests: Mapping[str, str]) -> str:
        labels = dict(model["Config"]["Labels"])
        service = labels[f"{_LABEL}service"]
        labels[f"{_LABEL}project"] = self._project
        labels[f"{_LABEL}project.config_files"] = self._file
        labels[f"{_LABEL}config-hash"] = digests[service]
        wish = {name: value for name, value in model["Config"].items() if name != "Hostname"}
        wish["Labels"] = labels
        wish["HostConfig"] = model["HostConfig"]
        wish["NetworkingConfig"] = {"EndpointsConfig": {self._network: {"Aliases": [service]}}}
        answer = self._post(f"/containers/create?name={service}.{digests[service][:8]}", wish)
        return str(answer["Id"])

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        connection = _Connection()
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            told = json.loads(answer.read() or b"{}")
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Refused(f"{_SOCKET}: the engine does not answer: {error}") from None
        finally:
            connection.close()
        if answer.status >= 300:
            raise Refused(f"the engine refuses {path}: {told.get('message', answer.status)}")
        return dict(told)

    def logs(self, container: str) -> str:
        _code, out, err = self._module.run_command(["docker", "logs", "--tail", str(_LINES), container])
        return str(out) + str(err)


_LABELS = (f"{_LABEL}service", f"{_LABEL}config-hash", _LEAVES_AT)


class _Connection(http.client.HTTPConnection):
    """HTTP over the engine's socket."""

    def __init__(self) -> None:
        super().__init__("localhost", timeout=60)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(_SOCKET)


def health(known: Mapping[str, Any]) -> str:
    """Of a container: healthy, starting, unhealthy, or none where nothing checks it."""
    return str((known["State"].get("Health") or {"Status": "none"})["Status"])


def is_ready(known: Mapping[str, Any]) -> bool:
    """Whether requests may come."""
    return bool(known["State"]["Running"]) and health(known) in ("healthy", "none")


def is_lost(known: Mapping[str, Any]) -> bool:
    """Whether there is nothing to wait for: it ended, or its health check has given up."""
    state = known["State"]
    return known["RestartCount"] > 0 or state["Status"] in ("exited", "dead") or health(known) == "unhealthy"


def report(service: str, known: Mapping[str, Any], logs: str) -> str:
    """Why a new container is not ready, as far as it can be seen."""
    state = known["State"]
    log = (state.get("Health") or {}).get("Log") or []
    checks = [each["Output"].strip() or f"exit code {each['ExitCode']}" for each in log]
    restarts, code = known["RestartCount"], state["ExitCode"]
    lines = [
        f"{service}: the new container did not become ready and is removed.",
        f"  State: {state['Status']}, health {health(known)}, restarted {restarts} times, exit code {code}",
        "  Health log:",
        *(f"    {line}" for check in checks[-_CHECKS:] or ["nothing yet"] for line in check.splitlines()),
        f"  Its last {_LINES} lines:",
        *(f"    {line}" for line in logs.splitlines()[-_LINES:] or ["none"]),
    ]
    return "\n".join(lines)


@dataclass
class Rollout:
    """One run over all services that need it. What the engine refuses leaves those that are not done as they were."""

    engine: _Engine
    ready_seconds: int
    rolled_out: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Why, by service."""
    left_behind: list[str] = field(default_factory=list)
    """What became of old containers that are still there. The services are rolled out all the same."""
    leaving: list[str] = field(default_factory=list)
    """Services of which an old container takes its time."""
    _stopping: list[tuple[Instance, subprocess.Popen[bytes]]] = field(default_factory=list)
    _leaving: list[tuple[Instance, subprocess.Popen[bytes]]] = field(default_factory=list)

    def remind(self, leaving: Iterable[Instance]) -> None:
        """Tell them once more to leave: a run that renamed them may have been interrupted before it did."""
        for each in leaving:
            self._let_leave(each)

    def run(self, needed: Sequence[Plan], wanted: Mapping[str, str]) -> None:
        try:
            for start in range(0, len(needed), _AT_ONCE):
                if start and not self.rolled_out:
                    for plan in needed[start:]:
                        self.failed[plan.service] = f"{plan.service}: not tried, as none of those before became ready."
                    break
                self._replace({plan.service: plan for plan in needed[start : start + _AT_ONCE]}, wanted)
        except Refused as problem:
            for plan in needed:
                if plan.service not in self.rolled_out:
                    self.failed.setdefault(plan.service, f"{plan.service}: {problem}")
        self._see_off()

    def _replace(self, batch: Mapping[str, Plan], wanted: Mapping[str, str]) -> None:
        fresh = {service: plan.fresh.id for service, plan in batch.items() if plan.fresh is not None}
        missing = {service: wanted[service] for service in batch if service not in fresh}
        if missing:
            fresh |= self.engine.create(missing)
        try:
            self.engine.docker("start", *fresh.values())
            ready, lost = self._wait(fresh)
        except Refused:
            self._take_back(batch, fresh)
            raise
        for service in ready:
            self._hand_over(batch[service], fresh[service])
        if ready:
            time.sleep(_BELIEVED)
        for service in ready:
            self._tell_to_leave(batch[service])
        for service, known in lost.items():
            self.failed[service] = report(service, known, self.engine.logs(fresh[service]))
        self._take_back(batch, {service: fresh[service] for service in lost})

    def _take_back(self, batch: Mapping[str, Plan], fresh: Mapping[str, str]) -> None:
        """New containers leave again, where there is one that goes on. The next run sees to what the engine keeps."""
        for service, container in fresh.items():
            if any(each.runs and not is_leaving(each) for each in batch[service].stale):
                with suppress(Refused):
                    self.engine.docker("stop", "--time", "10", container)
                    self.engine.docker("rm", container)

    def _wait(self, fresh: Mapping[str, str]) -> tuple[list[str], dict[str, Any]]:
        ready: list[str] = []
        lost: dict[str, Any] = {}
        deadline = time.monotonic() + self.ready_seconds
        while waiting := [service for service in fresh if service not in ready and service not in lost]:
            known = self.engine.look(fresh[service] for service in waiting)
            is_late = time.monotonic() > deadline
            for service in waiting:
                state = known[fresh[service]]
                if is_ready(state):
                    ready.append(service)
                elif is_lost(state) or is_late:
                    lost[service] = state
            time.sleep(_LOOK_EVERY)
        return ready, lost

    def _hand_over(self, plan: Plan, fresh: str) -> None:
        """The name goes over, while the alias of the same name leads to both.

        One that is renamed has no alias for a moment: who asks in that of the new one hears of the old one alone. What
        an interrupted run has left beside them leaves as well, and gets a name that says so.
        """
        for each in plan.stale:
            if each.name == plan.service or (each.runs and not is_leaving(each)):
                self.engine.docker("rename", each.id, f"{plan.service}.{_LEAVING}{each.id[:8]}")
        if plan.fresh is None or plan.fresh.name != plan.service:
            self.engine.docker("rename", fresh, plan.service)

    def _tell_to_leave(self, plan: Plan) -> None:
        slow = [each for each in plan.stale if each.runs and each.leaves_at]  # the youngest first
        for each in plan.stale:
            if each in slow[:_MOST_LEAVING]:
                self._let_leave(each)
            else:
                self._stopping.append((each, _beside("docker", "stop", each.id)))
        self.rolled_out.append(plan.service)

    def _let_leave(self, each: Instance) -> None:
        """It ends when its last stream does, and is removed then, though this run is over by that time."""
        with suppress(Refused):  # it may have left just now
            self.engine.docker("update", "--restart", "no", each.id)
            self.engine.docker("kill", "--signal", each.leaves_at, each.id)
        self._leaving.append((each, _beside("sh", "-c", 'docker wait "$0" && docker rm "$0"', each.id)))

    def _see_off(self) -> None:
        deadline = time.monotonic() + (_SEEN_OFF if self.rolled_out else 0)
        for each, removal in self._leaving:
            with suppress(subprocess.TimeoutExpired):
                removal.wait(max(0.0, deadline - time.monotonic()))
            if removal.returncode is None and each.service not in self.leaving:
                self.leaving.append(each.service)
        for each, stop in self._stopping:
            _out, err = stop.communicate()
            try:
                if stop.returncode != 0:
                    raise Refused(err.decode(errors="replace").strip())
                self.engine.docker("rm", each.id)
            except Refused as problem:
                if _GONE.search(str(problem)):  # what it was let leave with in an earlier run has removed it
                    continue
                self.left_behind.append(f"{each.name} was told to leave, and did not: {problem}")


def _beside(*words: str) -> subprocess.Popen[bytes]:
    """A command that goes on should this process end before it, also if the way to the host does."""
    return subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


@contextmanager
def alone(directory: str, patience: float) -> Iterator[None]:
    """While no other rollout is at it: one whose ansible-playbook was killed goes on until it is done."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    deadline = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Refused(
                        f"an earlier rollout, whose run was interrupted, goes on in {directory}; "
                        "run again when streams had time to end"
                    ) from None
                time.sleep(_LOOK_EVERY)
        yield
    finally:
        os.close(descriptor)


def run(module: AnsibleModule) -> dict[str, Any]:
    if module.check_mode:
        return roll_out(module)
    with alone(module.params["project_src"], _PATIENCE):
        return roll_out(module)


def roll_out(module: AnsibleModule) -> dict[str, Any]:
    engine = _Engine(module)
    wanted, found = engine.wanted(), engine.instances()
    needed = plans(module.params["services"], wanted, found)
    if module.check_mode:
        leaving = sorted({each.service for each in found if takes_its_time(each)})
        return {"changed": bool(needed), "rolled_out": [plan.service for plan in needed], "leaving": leaving}
    rollout = Rollout(engine, module.params["ready_seconds"])
    about_to = {plan.service for plan in needed}
    rollout.remind(each for each in found if takes_its_time(each) and each.service not in about_to)
    needs = module.params["needs"]
    others = engine.look(each.id for each in found if each.service == needs)
    if needed and needs and not any(is_ready(each) for each in others.values()):
        engine.compose("up", "--detach", "--no-deps", "--wait", needs)
    rollout.run(needed, wanted)
    for problem in rollout.left_behind:
        module.warn(f"{problem}. The next run sees to it.")
    result: dict[str, Any] = {
        "changed": bool(rollout.rolled_out),
        "rolled_out": rollout.rolled_out,
        "leaving": sorted(rollout.leaving),
    }
    if rollout.failed:
        result |= {
            "failed": True,
            "failed_services": sorted(rollout.failed),
            "msg": "\n".join(["What ran before goes on serving.", *rollout.failed.values()]),
        }
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "project_src": {"type": "path", "required": True},
            "file": {"type": "str", "required": True},
            "project_name": {"type": "str", "required": True},
            "network": {"type": "str", "required": True},
            "services": {"type": "list", "elements": "str", "required": True},
            "needs": {"type": "str", "default": ""},
            "ready_seconds": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except Refused as problem:
        module.fail_json(msg=str(problem), failed_services=sorted(module.params["services"]))
        raise AssertionError from None  # fail_json has left
    module.exit_json(**result)


if __name__ == "__main__":
    main()
