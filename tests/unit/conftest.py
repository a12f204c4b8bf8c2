"""How the collection, proxy_app and the scenarios' witnesses are found, to hold them against each other; fixtures."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest

from real_ansible import COLLECTIONS, REPOSITORY, Ansible
from small_cloudflare import cloudflare
from small_name_server import start
from small_server import serve, serve_tls
from sound_inventory import SOUND, Inventory

__all__ = ["cloudflare", "serve", "serve_tls", "start"]

sys.path[:0] = [str(COLLECTIONS), str(REPOSITORY / "proxy_app"), str(REPOSITORY / "molecule")]


@pytest.fixture
def inventory() -> Inventory:
    """Nothing is wrong with it."""
    return copy.deepcopy(SOUND)


@pytest.fixture
def ansible(tmp_path: Path) -> Ansible:
    return Ansible(tmp_path)
