"""Bringing the tables to this version of goproxy: one backend at a time, all or nothing, and given up when asked.

It may take minutes in a large store. It runs in a thread, so that the process answers meanwhile; another thread may
have it end, by which everything is as it was before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event, exc, func, select

from goproxy.observe import log

_MIGRATIONS = Path(__file__).with_name("migrations")
_LOCK = int.from_bytes(b"goproxy", "big")
"""PostgreSQL's advisory lock of whoever migrates."""

LOOK_EVERY = 1.0
"""Seconds between two looks whether another backend is done with it."""


class GivenUp(Exception):
    """The migration was asked to end; nothing of it was stored."""


class Taken(Exception):
    """Another backend is at it."""


class Migration:
    """The way of one store to the tables of today."""

    def __init__(self) -> None:
        self._given_up = threading.Event()
        self._stop: Callable[[], None] | None = None
        self._found: str | None = None

    def work(self, connection: Connection) -> None:
        """Do it in this transaction.

        Raises:
            GivenUp, Taken: nothing was done.
        """
        event.listen(connection, "before_cursor_execute", self._go_on_only_if_wanted)
        driver: Any = connection.connection.driver_connection
        is_postgresql = connection.dialect.name == "postgresql"
        self._stop = driver.cancel if is_postgresql else driver.interrupt
        try:
            if is_postgresql and not connection.scalar(select(func.pg_try_advisory_xact_lock(_LOCK))):
                raise Taken
            self._found = _older_one(connection)
            if self._found is not None:
                log("migrating the store", found=self._found, wanted=_newest())
            upgrade(connection)
        except exc.DBAPIError:
            if self._given_up.is_set():
                raise GivenUp from None
            raise
        finally:
            self._stop = None  # what is stored now must not be cut

    def tell(self, seconds: float) -> None:
        """It is stored. What runs on the store from now on must be of this version or newer."""
        if self._found is not None:
            log("store migrated", found=self._found, wanted=_newest(), seconds=round(seconds, 1))

    def wait_for_the_other(self) -> None:
        """Wait a while for the backend that is at it.

        Raises:
            GivenUp: there is no use in waiting.
        """
        if self._given_up.wait(LOOK_EVERY):
            raise GivenUp

    def give_up(self) -> None:
        """Have `work`, in another thread, end. To be called until it has: it may be between two statements."""
        self._given_up.set()
        if (stop := self._stop) is not None:
            with suppress(Exception):  # the connection was closed in this very moment
                stop()

    def _go_on_only_if_wanted(self, *_: Any) -> None:
        if self._given_up.is_set():
            raise GivenUp


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Bring the tables from what they are to a revision."""
    config = _alembic()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def revisions() -> set[str]:
    """All that this version of goproxy knows."""
    return {script.revision for script in _scripts().walk_revisions()}


def _older_one(connection: Connection) -> str | None:
    """The revision of a store that has to be migrated; of one that is to be made, is today's, or is newer, None."""
    found = MigrationContext.configure(connection).get_current_revision()
    return found if found in revisions() - {_newest()} else None


def _newest() -> str | None:
    return _scripts().get_current_head()


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_alembic())


def _alembic() -> AlembicConfig:
    config = AlembicConfig()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
