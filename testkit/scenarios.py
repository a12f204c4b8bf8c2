"""Runs Molecule scenarios one after the other, and removes their world in the end, whatever happened.

Usage: scenarios.py RESULTS SCENARIO...   as root, from the project's folder. Each run's report goes to RESULTS. Exit
code 1: a scenario failed or did not run, or something was left. Ctrl-C, SIGTERM and SIGHUP end it in good order.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

_ROOT = Path(__file__).resolve().parents[1]
_BIN = Path(sys.executable).parent
_WORLD = {"TESTKIT_NAME": "gateway-test", "TESTKIT_NETWORK": "198.18.78", "TESTKIT_DIR": str(_ROOT / ".testkit")}
_GO_ON_FROM = {"billing": "default", "lifecycle": "default", "rollout": "default"}  # what deploys for them
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE = 30.0


def main(results: Path, scenarios: Sequence[str]) -> int:
    """Run them; 1 if not all is well."""
    has_engine = failed = False
    try:
        _end_by_signals()
        has_engine = _run("testkit/engine.sh") == 0
        if not has_engine:
            return 1
        for scenario in scenarios:
            _report(results, scenario).unlink(missing_ok=True)
        for number, scenario in enumerate(scenarios):
            failed = not _passes(scenario, results, scenarios[:number]) or failed
    except KeyboardInterrupt:
        failed = True
        print("\ninterrupted: what was made is removed, which takes some seconds", flush=True)
    finally:
        _go_on_in_spite_of_signals()
        failed = not (remove() if has_engine else _run("testkit/engine.sh", "stop") == 0) or failed
    return 1 if failed else 0


def remove() -> bool:
    """Remove the world and stop the engine, if it was started for this. False, and said: something may be left."""
    if _run(_BIN / "ansible-playbook", "testkit/down.yml", "-i", "inventory/demo", environment=_WORLD) != 0:
        print("error: the test hosts could not be removed: see above, then run make test-down", flush=True)
        return False
    return _run("testkit/engine.sh", "stop") == 0


def _passes(scenario: str, results: Path, before: Sequence[str]) -> bool:
    base = _GO_ON_FROM.get(scenario, "")
    if base in before and not _report(results, base).exists():
        print(f"== molecule test -s {scenario}: not run, since {base} did not come as far as its tests", flush=True)
        return False
    print(f"== molecule test -s {scenario}", flush=True)
    # Molecule's note of what it has made is of this run only: whoever comes next makes sure anew that a host is there.
    # It lies in Ansible's folder, or in that of a virtual environment, which other projects share.
    notes = _ROOT / ".cache" / "molecule" / scenario
    shutil.rmtree(notes, ignore_errors=True)
    environment = {"ANSIBLE_HOME": str(notes), "VIRTUAL_ENV": None}
    code = _run(_BIN / "molecule", "test", "-s", scenario, environment=environment)
    return _run(sys.executable, "tests/summary.py", results, f"molecule-{scenario}") == 0 and code == 0


def _report(results: Path, scenario: str) -> Path:
    return results / f"molecule-{scenario}.xml"


def _run(*command: str | Path, environment: Mapping[str, str | None] | None = None) -> int:
    """Run a command to its end. It has a session of its own, so that a signal reaches all that it started, once."""
    variables = {name: value for name, value in {**os.environ, **(environment or {})}.items() if value is not None}
    with subprocess.Popen(command, cwd=_ROOT, env=variables, start_new_session=True) as process:
        try:
            return process.wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, signal.SIGINT)
                process.wait(_PATIENCE)
            with contextlib.suppress(ProcessLookupError):  # who of them is still there
                os.killpg(process.pid, signal.SIGKILL)
            raise


def _end_by_signals() -> None:
    def end(_number: int, _frame: FrameType | None) -> NoReturn:
        _go_on_in_spite_of_signals()  # once is enough
        raise KeyboardInterrupt

    for each in _SIGNALS:
        signal.signal(each, end)


def _go_on_in_spite_of_signals() -> None:
    for each in _SIGNALS:
        signal.signal(each, lambda *_: None)  # not SIG_IGN, which all that is started from here on would inherit


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
