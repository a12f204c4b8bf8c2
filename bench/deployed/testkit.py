"""The world to deploy to, of its own name and network, so that demo and tests may stand beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

NAME = "gateway-bench"
NETWORK = "198.18.79"


class Testkit:
    """The testkit's containers while the block runs."""

    def __init__(self, root: Path, *, keep: bool, name: str = NAME, network: str = NETWORK) -> None:
        self.root = root
        self.vps = f"{name}-vps"
        self.directory = root / ".cache" / name
        self._keep = keep
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MOLECULE_"))},
            "ANSIBLE_CONFIG": str(root / "ansible.cfg"),
            "TESTKIT_NAME": name,
            "TESTKIT_NETWORK": network,
            "TESTKIT_DIR": str(self.directory),
        }

    def __enter__(self) -> Self:
        self._engine()
        try:
            self._playbook("testkit/up.yml")
        except BaseException:
            self._remove()  # what was made until then: nobody calls __exit__
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._keep:
            self._remove()

    def _remove(self) -> None:
        try:
            self._playbook("testkit/down.yml")
        finally:
            self._engine("stop")

    def _engine(self, *verb: str) -> None:
        subprocess.run([self.root / "testkit/engine.sh", *verb], check=True, stdout=sys.stderr)

    def _playbook(self, name: str) -> None:
        program = Path(sys.executable).with_name("ansible-playbook")
        subprocess.run(
            [program, name, "-i", "inventory/demo"],
            cwd=self.root,
            env=self.environment,
            check=True,
            stdout=sys.stderr,
        )
