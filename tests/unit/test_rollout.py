"""What the module rollout decides to do, from the containers that it finds."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ansible_collections.trollllm.gateway.plugins.modules import rollout as subject

A = "goproxy-a"
WANTED = {A: "new"}


def container(name: str, digest: str, *, runs: bool = True, service: str = A) -> subject.Instance:
    return subject.Instance(f"id-of-{name}", name, service, digest, runs)


RIGHT = container(A, "new")
OLD = container(A, "old")
BEGUN = container("goproxy-a.new", "new")
MADE = container("goproxy-a.new", "new", runs=False)
LEAVING = container("goproxy-a.leaving-1", "old")
LEFT = container("goproxy-a.leaving-1", "old", runs=False)
AS_WANTED_AND_LEAVING = container("goproxy-a.leaving-1", "new")


def patient(name: str, *, runs: bool = True, service: str = A) -> subject.Instance:
    """One that may take its time to leave."""
    return replace(container(name, "old", runs=runs, service=service), leaves_at="SIGQUIT")


TAKES_ITS_TIME = patient("goproxy-a.leaving-1")


@pytest.mark.parametrize(
    ("found", "fresh", "stale"),
    [
        pytest.param([OLD], None, [OLD], id="changed"),
        pytest.param([OLD, BEGUN], BEGUN, [OLD], id="interrupted before the new one was ready"),
        pytest.param([OLD, MADE], MADE, [OLD], id="interrupted before the new one was started"),
        pytest.param([LEAVING, BEGUN], BEGUN, [LEAVING], id="interrupted between the two renamings"),
        pytest.param([LEAVING, RIGHT], RIGHT, [LEAVING], id="interrupted while the old one left"),
        pytest.param([LEFT, RIGHT], RIGHT, [LEFT], id="interrupted after the old one left"),
        pytest.param([BEGUN], BEGUN, [], id="interrupted before it got its name"),
        pytest.param([TAKES_ITS_TIME, BEGUN], BEGUN, [TAKES_ITS_TIME], id="interrupted between them, a patient one"),
        pytest.param([OLD, TAKES_ITS_TIME], None, [OLD, TAKES_ITS_TIME], id="changed once more"),
        pytest.param(
            [TAKES_ITS_TIME, STOPPED := container(A, "new", runs=False)],
            STOPPED,
            [TAKES_ITS_TIME],
            id="the new one was stopped while the old one leaves, and nobody is served",
        ),
        pytest.param(
            [LEFT_IN_TIME := patient("goproxy-a.leaving-1", runs=False), RIGHT],
            RIGHT,
            [LEFT_IN_TIME],
            id="nobody removed it when it had left",
        ),
        pytest.param(
            [AS_WANTED_AND_LEAVING, OLD], None, None, id="reverted while what is wanted again leaves: it takes nobody"
        ),
        pytest.param([OLD, container("goproxy-a.other", "other")], None, None, id="another one was begun before"),
    ],
)
def test_a_service_that_runs_otherwise_than_wanted_is_brought_there(
    found: list[subject.Instance], fresh: subject.Instance | None, stale: list[subject.Instance] | None
) -> None:
    assert subject.plans([A], WANTED, found) == [subject.Plan(A, fresh, found if stale is None else stale)]


@pytest.mark.parametrize(
    "found",
    [
        pytest.param([RIGHT], id="as wanted"),
        pytest.param([RIGHT, TAKES_ITS_TIME], id="as wanted, and the one of before finishes its streams"),
        pytest.param([], id="not there yet"),
        pytest.param([container(A, "old", runs=False)], id="stopped: nobody is served by it"),
        pytest.param([container("backend", "old", service="backend")], id="another service"),
    ],
)
def test_everything_else_is_left_to_compose(found: list[subject.Instance]) -> None:
    assert subject.plans([A], WANTED, found) == []


def test_a_service_that_is_wanted_no_more_is_left_to_compose() -> None:
    assert subject.plans([A], {}, [OLD]) == []


def known(status: str = "running", health: str | None = "starting", restarts: int = 0) -> dict[str, Any]:
    checks = {"Status": health, "Log": [{"Output": f"refused {number}\n", "ExitCode": 1} for number in range(5)]}
    state = {"Status": status, "Running": status == "running", "ExitCode": 7, "Health": checks if health else None}
    return {"State": state, "RestartCount": restarts}


def test_ready_is_who_is_healthy_and_lost_who_cannot_become_so() -> None:
    assert subject.is_ready(known(health="healthy"))
    assert subject.is_ready(known(health=None))
    assert not subject.is_ready(known())
    assert not subject.is_ready(known("exited", "healthy"))
    assert not subject.is_lost(known())
    assert subject.is_lost(known("exited"))
    assert subject.is_lost(known(restarts=1))
    assert subject.is_lost(known(health="unhealthy"))


def test_the_report_says_state_health_log_and_the_last_lines() -> None:
    logs = "\n".join(f"line {number}" for number in range(100))
    lines = subject.report(A, known("restarting", restarts=2), logs).splitlines()
    assert lines[0] == "goproxy-a: the new container did not become ready and is removed."
    assert lines[1] == "  State: restarting, health starting, restarted 2 times, exit code 7"
    assert [line.strip() for line in lines[3:6]] == ["refused 2", "refused 3", "refused 4"]
    assert [line.strip() for line in lines[7:]] == [f"line {number}" for number in range(50, 100)]


class Engine:
    """One that refuses to start some containers, and whose new containers are ready at once."""

    def __init__(self, *refused: str) -> None:
        self.refused = refused
        self.calls: list[tuple[str, ...]] = []

    def docker(self, *arguments: str) -> str:
        self.calls.append(arguments)
        if arguments[0] == "start" and set(arguments) & set(self.refused):
            raise subject.Refused("docker start: no space left on device")
        return ""

    def create(self, digests: Mapping[str, str]) -> dict[str, str]:
        return {service: f"new-{service}" for service in digests}

    def look(self, containers: Iterable[str]) -> dict[str, dict[str, Any]]:
        return {each: known(health="healthy") for each in containers}


def test_what_the_engine_refuses_leaves_the_others_rolled_out_and_names_those_that_are_not() -> None:
    needed = [subject.Plan(f"goproxy-{letter}", None, []) for letter in "abcdef"]
    rollout = subject.Rollout(Engine("new-goproxy-e"), ready_seconds=5)  # type: ignore[arg-type] # it does what is asked
    rollout.run(needed, {plan.service: "new" for plan in needed})
    assert rollout.rolled_out == ["goproxy-a", "goproxy-b", "goproxy-c", "goproxy-d"]
    assert rollout.failed == {
        service: f"{service}: docker start: no space left on device" for service in ("goproxy-e", "goproxy-f")
    }


def test_new_ones_leave_again_where_the_engine_refuses_and_an_old_one_goes_on() -> None:
    """They would answer beside it, and take their files of before for their own when they start again."""
    engine = Engine("new-goproxy-b")
    rollout = subject.Rollout(engine, ready_seconds=5)  # type: ignore[arg-type] # it does what is asked
    plans = [subject.Plan(A, None, [OLD]), subject.Plan("goproxy-b", None, [OLD]), subject.Plan("goproxy-c", BEGUN, [])]
    rollout.run(plans, {A: "new", "goproxy-b": "new"})
    assert sorted(rollout.failed) == [A, "goproxy-b", "goproxy-c"]
    left = [call[-1] for call in engine.calls if call[0] in ("stop", "rm")]
    assert left == ["new-goproxy-a", "new-goproxy-a", "new-goproxy-b", "new-goproxy-b"]


def test_an_old_one_stays_until_nobody_believes_what_was_told_while_names_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the new one is renamed, its alias leads to the old one alone; the edge believes that for a second."""
    engine = Engine()

    class Stop:
        returncode = 0

        def __init__(self, words: list[str], **_: object) -> None:
            engine.calls.append(tuple(words[1:]))

        def communicate(self) -> tuple[bytes, bytes]:
            return b"", b""

    monkeypatch.setattr("subprocess.Popen", Stop)
    monkeypatch.setattr("time.sleep", lambda seconds: engine.calls.append(("sleep", str(seconds))))
    rollout = subject.Rollout(engine, ready_seconds=5)  # type: ignore[arg-type] # it does what is asked
    rollout.run([subject.Plan(A, None, [OLD])], WANTED)
    done = [call[0] for call in engine.calls]
    assert done[done.index("rename") :] == ["rename", "rename", "sleep", "stop", "rm"]
    assert ("sleep", "2") in engine.calls


class Beside:
    """What goes on beside the run: each ends at once, but for those that wait for one of `busy`."""

    busy: ClassVar[set[str]] = set()
    words: ClassVar[list[tuple[str, ...]]] = []

    def __init__(self, words: tuple[str, ...], **_: object) -> None:
        self.words.append(words)
        self.returncode: int | None = None if set(words) & self.busy else 0

    def wait(self, seconds: float) -> None:
        if self.returncode is None:
            raise subprocess.TimeoutExpired("docker wait", seconds)

    def communicate(self) -> tuple[bytes, bytes]:
        return b"", b""


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> type[Beside]:
    monkeypatch.setattr(Beside, "busy", set())
    monkeypatch.setattr(Beside, "words", [])
    monkeypatch.setattr("subprocess.Popen", Beside)
    monkeypatch.setattr("time.sleep", lambda _: None)
    return Beside


def test_one_that_leaves_is_none_that_goes_on() -> None:
    """What serves already is no new container to be taken back, whatever else the engine refuses."""
    engine = Engine("new-goproxy-b")
    rollout = subject.Rollout(engine, ready_seconds=5)  # type: ignore[arg-type] # it does what is asked
    left = patient("goproxy-a.leaving-2", runs=False)
    rollout.run(
        [subject.Plan(A, RIGHT, [TAKES_ITS_TIME, left]), subject.Plan("goproxy-b", None, [])],
        WANTED | {"goproxy-b": "n"},
    )
    assert [call for call in engine.calls if call[0] in ("stop", "rm")] == []


@pytest.mark.usefixtures("beside")
def test_what_an_interrupted_run_left_leaves_under_a_name_that_says_so() -> None:
    """Else the next run would plan it anew, or take it for the new one."""
    other = patient("goproxy-a.other")
    engine = Engine()
    rollout = subject.Rollout(engine, ready_seconds=5)  # type: ignore[arg-type] # it does what is asked
    rollout.run([subject.Plan(A, RIGHT, [other])], WANTED)
    assert [call for call in engine.calls if call[0] == "rename"] == [
        ("rename", other.id, f"goproxy-a.leaving-{other.id[:8]}")
    ]


@pytest.mark.usefixtures("beside")
def test_one_that_has_gone_by_itself_meanwhile_is_not_left_behind() -> None:
    class Gone(Engine):
        def docker(self, *arguments: str) -> str:
            if arguments[0] == "rm":
                raise subject.Refused("docker rm x: Error: removal of container x is already in progress")
            return super().docker(*arguments)

    rollout = subject.Rollout(Gone(), ready_seconds=5)  # type: ignore[arg-type] # it does what is asked
    rollout.run([subject.Plan(A, None, [OLD])], WANTED)
    assert (rollout.rolled_out, rollout.left_behind) == ([A], [])


def test_an_old_one_that_knows_how_to_is_told_to_end_in_its_own_time(beside: type[Beside]) -> None:
    """The run does not wait for it; what removes it outlives the run."""
    old, other = patient(A), patient("goproxy-b", service="goproxy-b")
    beside.busy = {old.id}
    engine = Engine()
    rollout = subject.Rollout(engine, ready_seconds=5)  # type: ignore[arg-type] # it does what is asked
    rollout.run([subject.Plan(A, None, [old]), subject.Plan("goproxy-b", None, [other])], WANTED | {"goproxy-b": "new"})
    assert (rollout.rolled_out, rollout.failed, rollout.left_behind) == ([A, "goproxy-b"], {}, [])
    assert rollout.leaving == [A]
    assert ("update", "--restart", "no", old.id) in engine.calls
    assert ("kill", "--signal", "SIGQUIT", old.id) in engine.calls
    assert [call for call in engine.calls if call[0] in ("stop", "rm")] == []
    assert beside.words == [("sh", "-c", 'docker wait "$0" && docker rm "$0"', each.id) for each in (old, other)]


def test_of_many_that_take_their_time_the_oldest_are_hurried(beside: type[Beside]) -> None:
    """Each has its memory. The engine lists the youngest first."""
    old = [patient(A), *(patient(f"goproxy-a.leaving-{number}") for number in (3, 2, 1))]
    beside.busy = {each.id for each in old[:2]}
    engine = Engine()
    rollout = subject.Rollout(engine, ready_seconds=5)  # type: ignore[arg-type] # it does what is asked
    rollout.run([subject.Plan(A, None, old)], WANTED)
    assert [call[-1] for call in engine.calls if call[0] == "kill"] == [each.id for each in old[:2]]
    assert [words for words in beside.words if words[0] == "docker"] == [
        ("docker", "stop", each.id) for each in old[2:]
    ]
    assert [call for call in engine.calls if call[0] == "rm"] == [("rm", each.id) for each in old[2:]]
    assert rollout.leaving == [A]


def test_one_whose_run_was_interrupted_before_it_was_told_is_told_by_the_next(beside: type[Beside]) -> None:
    beside.busy = {TAKES_ITS_TIME.id}
    engine = Engine()
    rollout = subject.Rollout(engine, ready_seconds=5)  # type: ignore[arg-type] # it does what is asked
    rollout.remind([TAKES_ITS_TIME])
    rollout.run([], WANTED)
    assert ("kill", "--signal", "SIGQUIT", TAKES_ITS_TIME.id) in engine.calls
    assert (rollout.leaving, rollout.rolled_out) == ([A], [])


def test_an_old_one_that_the_engine_does_not_let_go_is_left_to_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The new ones serve by then: to go back to the files of before would take their configuration from them."""

    class Stop:
        def __init__(self, words: list[str], **_: object) -> None:
            self.returncode = 1 if OLD.id in words else 0

        def communicate(self) -> tuple[bytes, bytes]:
            return b"", b"Error response from daemon: EOF\n"

    monkeypatch.setattr("subprocess.Popen", Stop)
    monkeypatch.setattr("time.sleep", lambda _: None)
    engine, other = Engine(), container("goproxy-b", "old", service="goproxy-b")
    rollout = subject.Rollout(engine, ready_seconds=5)  # type: ignore[arg-type] # it does what is asked
    plans = [subject.Plan(A, None, [OLD]), subject.Plan("goproxy-b", None, [other])]
    rollout.run(plans, WANTED | {"goproxy-b": "new"})
    assert (rollout.rolled_out, rollout.failed) == ([A, "goproxy-b"], {})
    assert rollout.left_behind == [
        "goproxy-a was told to leave, and did not: Error response from daemon: EOF",
    ]
    assert [call for call in engine.calls if call[0] == "rm"] == [("rm", other.id)]


def test_one_rollout_waits_for_another_that_outlived_its_run(tmp_path: Path) -> None:
    """And says so where that takes too long; nothing is left that could hold up a third one."""
    with (
        subject.alone(str(tmp_path), 0),
        pytest.raises(subject.Refused, match=r"an earlier rollout, .* run again"),
        subject.alone(str(tmp_path), 0),
    ):
        raise AssertionError("both at once")
    with subject.alone(str(tmp_path), 0):
        assert list(tmp_path.iterdir()) == []
