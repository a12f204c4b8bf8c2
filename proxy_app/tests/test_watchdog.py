"""A process whose event loop stands still ends, however it does, and one whose loop runs does not."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.backend import Backend
from tests.process import serving

_BEGINNING = "import asyncio, re, time; from goproxy.watchdog import watched"
_WAITING = "async def work(): await asyncio.sleep(2.5); return 7"
_SLEEPING = "async def work(): time.sleep(60)"
_SPINNING = "async def work(): re.match('(a+)+$', 'a' * 60 + 'b')"  # a call of C, which lets no other thread run


def run(work: str) -> subprocess.CompletedProcess[str]:
    program = "\n".join([_BEGINNING, work, "print(asyncio.run(watched(work(), standstill=1)))"])
    return subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=30)


def test_work_that_waits_is_done() -> None:
    done = run(_WAITING)
    assert (done.returncode, done.stdout, done.stderr) == (0, "7\n", "")


@pytest.mark.parametrize("work", [pytest.param(_SLEEPING, id="sleeping"), pytest.param(_SPINNING, id="in a call of C")])
def test_a_loop_that_stands_still_ends_the_process_and_tells_where(work: str) -> None:
    done = run(work)
    assert done.returncode == 1
    assert "Timeout (0:00:01)!" in done.stderr
    assert 'File "<string>", line 2 in work' in done.stderr


_PROGRAM = """
import signal, sys, time
from goproxy import watchdog
from goproxy.cli import main
watchdog.watched.__defaults__ = (1.0,)
signal.signal(signal.SIGUSR1, lambda *_: time.sleep(60))
sys.exit(main(["serve"]))
"""


async def test_goproxy_is_watched(document: dict[str, Any], backend: Backend, tmp_path: Path) -> None:
    async with serving(document, backend, tmp_path, program=("-c", _PROGRAM)) as served:
        await asyncio.sleep(2)
        assert served.process.returncode is None
        served.process.send_signal(signal.SIGUSR1)
        assert await asyncio.wait_for(served.process.wait(), 20) == 1
