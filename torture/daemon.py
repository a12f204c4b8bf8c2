"""`goproxy serve` and `goproxy backend` as processes: started, watched, killed, and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import aiohttp

_START = 60.0
_STOP = 30.0
_PROXY_APP = Path(__file__).parents[1] / "proxy_app"


class Daemon:
    """One process. What it writes, over all its lives, is in one file."""

    def __init__(self, name: str, verb: str, port: int, environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.port = port
        self.log = log
        self._verb = verb
        self.environment = environment
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def rss_kib(self) -> int:
        """Resident memory."""
        return self._status("VmRSS")

    @property
    def threads(self) -> int:
        return self._status("Threads")

    @property
    def descriptors(self) -> int:
        """Open files and sockets."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    async def start(
        self, *, before: Sequence[str] = (), environment: Mapping[str, str] | None = None, is_ready: bool = True
    ) -> None:
        """Start it, and wait until it listens and is ready; `before`: a command that becomes it."""
        offset = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *("setpriv", "--pdeathsig", "KILL", *before, sys.executable, "-m", "goproxy.cli", self._verb),
                env={**os.environ, "PYTHONPATH": str(_PROXY_APP), **self.environment, **(environment or {})},
                stdout=output,
                stderr=output,
            )
        try:
            async with asyncio.timeout(_START):
                while b'"listening"' not in self._said(offset):
                    if not self.is_alive:
                        raise AssertionError(f"{self.name} did not start:\n{self._said(offset).decode()[-2000:]}")
                    await asyncio.sleep(0.02)
                while is_ready and not await self.is_ready():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            said = self._said(offset).decode()[-2000:]
            raise AssertionError(f"{self.name} was not ready within {_START:.0f} s:\n{said}") from None

    async def is_ready(self) -> bool:
        try:
            async with aiohttp.ClientSession() as session, session.get(f"{self.url}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def metrics(self) -> dict[str, float]:
        """What it tells Prometheus: the sum over all labels, by name."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/metrics") as answer:
            text = await answer.text()
        sums: dict[str, float] = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                name = name.partition("{")[0]
                sums[name] = sums.get(name, 0.0) + float(value)
        return sums

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            if self.is_alive:
                self._process.kill()
            await self._process.wait()

    async def stop(self) -> int:
        """SIGTERM; the exit code. One that does not leave in time is killed."""
        assert self._process is not None
        if self.is_alive:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
        return await self.ended()

    async def ended(self, seconds: float = _STOP) -> int:
        """Wait for its end; the exit code, -9 if it had to be killed."""
        assert self._process is not None
        try:
            return await asyncio.wait_for(self._process.wait(), seconds)
        except TimeoutError:
            self._process.kill()
            return await self._process.wait()

    def _said(self, offset: int) -> bytes:
        with self.log.open("rb") as log:
            log.seek(offset)
            return log.read()

    def _status(self, name: str) -> int:
        text = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name}:"))
