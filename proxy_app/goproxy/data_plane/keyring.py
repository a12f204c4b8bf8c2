"""The keys that are let in: keys.json, watched, and the last good set kept while it is broken."""

from __future__ import annotations

import logging
from pathlib import Path

from goproxy.core.keys import InvalidKeyFile, KeySet, read_key_file
from goproxy.observe import log
from goproxy.watched_file import WatchedFile


class NoKeys(Exception):
    """No good set of keys was ever read, so that nobody can be told from anybody."""


class Keyring:
    """Knows whose a key is, within a second of every change of the file."""

    def __init__(self, path: Path) -> None:
        self._file = WatchedFile(path)
        self._keys: KeySet | None = None
        self.problem: str | None = "not read yet"
        """What is wrong with the file as it stands now."""

    @property
    def loaded(self) -> bool:
        """Whether there is a set of keys to go by."""
        return self._keys is not None

    def look(self) -> None:
        """Take in the file if it has changed."""
        try:
            content = self._file.changed()
            if content is None:
                return
            keys = read_key_file(content)
        except OSError as error:
            self._is_broken(f"cannot be read: {error.strerror}")
        except InvalidKeyFile as error:
            self._is_broken(str(error))
        else:
            if self.problem is not None or self._keys is None or len(keys) != len(self._keys):
                log("keys read", path=str(self._file.path), keys=len(keys))
            self._keys, self.problem = keys, None

    def account_of(self, key: str) -> str | None:
        """Whose key this is, if it is anybody's.

        Raises:
            NoKeys: there is nothing to go by.
        """
        if self._keys is None:
            raise NoKeys
        return self._keys.account_of(key)

    def _is_broken(self, problem: str) -> None:
        if problem != self.problem:
            kept = None if self._keys is None else len(self._keys)
            log(
                "keys file is broken; the last good set stays",
                level=logging.ERROR,
                path=str(self._file.path),
                problem=problem,
                keys_kept=kept,
            )
        self.problem = problem
